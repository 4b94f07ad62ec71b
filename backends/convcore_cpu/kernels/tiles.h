/* Winograd's transform of the input: overlapping tiles of an image operand to points.
 *
 *     V[block, point, channel, lane] = B^T d B,  d[a][b] = src[image, channel, i*m + a - top, j*m + b - left]
 *
 * Tile (image, i, j) is lane `lane` of block `block`: tiles are numbered line by line and on from image to image, so
 * that a block is full however small the images are.  Outside the operand d is the fill; past the last tile it is 0.
 *
 * The lines of a block of tiles of one channel are copied to the stack, each with its padding and m columns for each
 * tile; a second time moved on by m, for the two columns that a tile shares with its neighbour.  A block whose tiles
 * are all in one line and see no padding is read where it lies.
 *
 * A task is one block of tiles by some channels.
 */
static inline void NAMED(fill_line)(TYPE *line, index_t count, TYPE fill) {
    for (index_t i = 0; i < count; i++) line[i] = fill;
}

static inline void NAMED(padded_line)(const tiles_sizes *z, const TYPE *src, index_t x, index_t count, TYPE fill,
                                      TYPE *line) {
    const index_t start = x < 0 ? -x : 0, lo = start < count ? start : count;
    const index_t end = z->width - x < count ? z->width - x : count, hi = end > lo ? end : lo;
    NAMED(fill_line)(line, lo, fill);
    if (z->src_column == 1) memcpy(line + lo, src + x + lo, (size_t)(hi - lo) * sizeof(TYPE));
    else
        for (index_t i = lo; i < hi; i++) line[i] = src[(x + i) * z->src_column];
    NAMED(fill_line)(line + hi, count - hi, fill);
}

/* A vector of tiles; with `in_place`, its lines are read where they lie. */
typedef struct {
    const tile_run *runs, *end;
    int in_place;
} NAMED(tile_vector);

/* Copy the lines of a run, a second time moved on by m. */
static void NAMED(copy_lines)(const tiles_step *s, const tile_run *run, const TYPE *plane, TYPE fill, TYPE *lines) {
    const tiles_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, width = run->count * m;
    for (index_t a = 0; a < m + 2; a++) {
        const index_t y = run->y + a;
        for (index_t moved = 0; moved < 2; moved++) {
            TYPE *line = lines + s->in_offsets[2 * a + moved] + run->lane * m;
            if (y < 0 || y >= z->height) NAMED(fill_line)(line, width, fill);
            else NAMED(padded_line)(z, plane + y * z->src_line, run->x + moved * m, width, fill, line);
        }
    }
}

/* Ask for the lines of a run ahead of time: pieces of lines are no stream that a processor foresees. */
static void NAMED(ask_for_lines)(const tiles_sizes *z, index_t m, const tile_run *run, const TYPE *plane) {
    enum { STEP = 64 / sizeof(TYPE) };
    for (index_t y = run->y; y < run->y + m + 2 && z->src_column == 1; y++) {
        if (y < 0 || y >= z->height) continue;
        const TYPE *line = plane + y * z->src_line + run->x;
        for (index_t x = 0; x < run->count * m; x += STEP) __builtin_prefetch(line + x);
    }
}

/* Transform channels first .. last-1 of a block of tiles to where `v` has the block. */
static void NAMED(transform_tiles)(const tiles_step *s, const TYPE *src, index_t images, index_t block, index_t first,
                                   index_t last, TYPE *v) {
    const tiles_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, lanes = s->kernel->columns, first_tile = (z->first_block + block) * z->lanes;
    const index_t left_over = z->tile_lines * z->tile_columns * images - first_tile;
    const index_t tiles = left_over < z->lanes ? left_over : z->lanes;
    const TYPE fill = *(const TYPE *)s->fill;
    _Alignas(64) TYPE lines[MAX_POINTS * 2 * 4 * MAX_LANES];
    tile_run runs[MAX_TILE_COLUMNS], *next = runs;
    NAMED(tile_vector) vectors[MAX_TILE_VECTORS], *end = vectors;
    index_t in_place[2 * MAX_POINTS];
    if (tiles % lanes) memset(lines, 0, sizeof lines);
    for (index_t lane = 0; lane < tiles; lane += lanes, end++) {
        tile_run *const run = next;
        next = runs_of_tiles(z->tile_lines, z->tile_columns, m, first_tile + lane,
                             tiles - lane < lanes ? tiles - lane : lanes, next);
        for (tile_run *each = run; each < next; each++) each->y -= z->top, each->x -= z->left;
        /* Whole vectors are read, and the last of a line that is moved on ends m - 2 pixels past the tiles. */
        const int is_inside = run->count == lanes && run->y >= 0 && run->y + m + 2 <= z->height && run->x >= 0 &&
                              run->x + (lanes + 1) * m <= z->width;
        *end = (NAMED(tile_vector)){run, next, is_inside && z->src_column == 1};
    }
    for (index_t a = 0; a < 2 * (m + 2); a++) in_place[a] = a / 2 * z->src_line + a % 2 * m;
    for (index_t channel = first; channel < last; channel++) {
        const TYPE *const planes = src + channel * z->src_channel;
        TYPE *to = v + channel * z->lanes;
        for (const NAMED(tile_vector) *vector = vectors; vector < end; vector++, to += lanes) {
            const tile_run *run = vector->runs;
            const transform_loop loop = {vector->in_place ? in_place : s->in_offsets, s->out_offsets, 1, NULL};
            const TYPE *const from =
                vector->in_place ? planes + run->image * z->src_image + run->y * z->src_line + run->x : lines;
            for (; run < vector->end; run++) {
                if (channel + 1 < last)
                    NAMED(ask_for_lines)(z, m, run, planes + z->src_channel + run->image * z->src_image);
                if (!vector->in_place) NAMED(copy_lines)(s, run, planes + run->image * z->src_image, fill, lines);
            }
            ((transform_function *)s->kernel->function)(&loop, from, to);
        }
    }
}

static void NAMED(tiles)(const void *step, char *const *buffers, index_t images, index_t task) {
    const tiles_step *s = step;
    const tiles_sizes *z = &s->sizes;
    const index_t block = task / z->channel_tasks, first = task % z->channel_tasks * z->channels_per_task;
    const index_t last = first + z->channels_per_task < z->channels ? first + z->channels_per_task : z->channels;
    NAMED(transform_tiles)(s, (const TYPE *)buffers[FIRST], images, block, first, last,
                           (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->dst_block);
}
