/* Winograd's transform of the input: overlapping tiles of an image operand to points.
 *
 *     V[block, point, channel, lane] = B^T d B,  d[a][b] = src[image, channel, i*m + a - top, j*m + b - left]
 *
 * Tile (image, i, j) is lane `lane` of block `block`: tiles are numbered line by line and on from image to image, so
 * that a block is full however small the images are.  Outside the operand d is the fill; past the last tile it is 0.
 *
 * The lines of a block of tiles of one channel are copied to the stack, each with its padding and m columns for each
 * tile; a second time moved on by m, for the two columns that a tile shares with its neighbour.
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

static void NAMED(tiles)(const void *step, char *const *buffers, index_t images, index_t task) {
    const tiles_step *s = step;
    const tiles_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, n = m + 2, per_image = z->tile_lines * z->tile_columns;
    const index_t block = task / z->channel_tasks, first_tile = (z->first_block + block) * z->lanes;
    const index_t first = task % z->channel_tasks * z->channels_per_task;
    const index_t last = first + z->channels_per_task < z->channels ? first + z->channels_per_task : z->channels;
    const index_t left_over = per_image * images - first_tile, tiles = left_over < z->lanes ? left_over : z->lanes;
    const TYPE *src = (const TYPE *)buffers[FIRST];
    const TYPE fill = *(const TYPE *)s->fill;
    TYPE *v = (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->dst_block;
    const transform_loop loop = {s->in_offsets, s->out_offsets, z->lanes / s->kernel->columns, NULL};
    _Alignas(64) TYPE lines[MAX_POINTS * 2 * 4 * MAX_TILE_COLUMNS];
    if (tiles <= 0) return;
    if (tiles < z->lanes) memset(lines, 0, sizeof lines);
    for (index_t channel = first; channel < last; channel++) {
        for (index_t lane = 0; lane < tiles;) {
            const index_t tile = first_tile + lane, image = tile / per_image, i = tile % per_image / z->tile_columns;
            const index_t j = tile % z->tile_columns;
            const index_t run = z->tile_columns - j < tiles - lane ? z->tile_columns - j : tiles - lane;
            const TYPE *plane = src + image * z->src_image + channel * z->src_channel;
            for (index_t a = 0; a < n; a++) {
                const index_t y = i * m + a - z->top;
                for (index_t moved = 0; moved < 2; moved++) {
                    TYPE *line = lines + s->in_offsets[2 * a + moved] + lane * m;
                    if (y < 0 || y >= z->height) NAMED(fill_line)(line, run * m, fill);
                    else NAMED(padded_line)(z, plane + y * z->src_line, (j + moved) * m - z->left, run * m, fill, line);
                }
            }
            lane += run;
        }
        ((transform_function *)s->kernel->function)(&loop, lines, v + channel * z->lanes);
    }
}
