/* Winograd's transform of the input: overlapping tiles of an image operand to points.
 *
 *     V[block, point, channel, lane] = B^T d B,  d[a][b] = src[image, channel, i*m + a - top, j*m + b - left]
 *
 * Tile (image, i, j) is lane `lane` of block `block`: tiles are numbered line by line and on from image to image, so
 * that a block is full however small the images are.  Outside the operand d is the fill; past the last tile it is 0.
 *
 * The elements of a block of tiles of one channel, (m+2)^2 x lanes of them, are gathered on the stack: a line of pixels
 * is copied with its padding, then dealt out m columns at a time.
 *
 * A task is one block of tiles by some channels.
 */
static inline void NAMED(padded_line)(const tiles_sizes *z, const TYPE *src, index_t x, index_t count, TYPE fill,
                                      TYPE *line) {
    const index_t start = x < 0 ? -x : 0, lo = start < count ? start : count;
    const index_t end = z->width - x < count ? z->width - x : count, hi = end > lo ? end : lo;
    for (index_t i = 0; i < lo; i++) line[i] = fill;
    if (z->src_column == 1) memcpy(line + lo, src + x + lo, (size_t)(hi - lo) * sizeof(TYPE));
    else
        for (index_t i = lo; i < hi; i++) line[i] = src[(x + i) * z->src_column];
    for (index_t i = hi; i < count; i++) line[i] = fill;
}

/* Deal the pixels of a line out to tiles: element b of tile t is line[t*m + b]. */
static inline __attribute__((always_inline)) void NAMED(deal)(const int m, const TYPE *line, index_t tiles, TYPE *to,
                                                              index_t lanes) {
    for (index_t t = 0; t < tiles; t++) {
    UNROLL for (int b = 0; b < m; b++) to[b * lanes + t] = line[t * m + b];
    }
    for (index_t t = 0; t < tiles; t++) {
        UNROLL for (int b = m; b < m + 2; b++) to[b * lanes + t] = line[t * m + b];
    }
}

static void NAMED(tiles)(const void *step, char *const *buffers, index_t images, index_t task) {
    const tiles_step *s = step;
    const tiles_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, n = m + 2, per_image = z->tile_lines * z->tile_columns;
    const index_t block = task / z->channel_tasks, first_tile = (z->first_block + block) * z->lanes;
    const index_t first = task % z->channel_tasks * z->channels_per_task;
    const index_t last = first + z->channels_per_task < z->channels ? first + z->channels_per_task : z->channels;
    const index_t left_over = per_image * images - first_tile, tiles = left_over < z->lanes ? left_over : z->lanes;
    const TYPE *src = (const TYPE *)buffers[z->src_buffer];
    const TYPE fill = *(const TYPE *)s->fill;
    TYPE *v = (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->dst_block;
    const transform_loop loop = {s->in_offsets, s->out_offsets, z->lanes / s->kernel->columns, NULL};
    TYPE line[4 * MAX_TILE_COLUMNS + 2];
    _Alignas(64) TYPE elements[MAX_POINTS * MAX_POINTS * MAX_TILE_COLUMNS];
    if (tiles <= 0) return;
    if (tiles < z->lanes) memset(elements, 0, sizeof elements);
    for (index_t channel = first; channel < last; channel++) {
        for (index_t lane = 0; lane < tiles;) {
            const index_t tile = first_tile + lane, image = tile / per_image, i = tile % per_image / z->tile_columns;
            const index_t j = tile % z->tile_columns;
            const index_t run = z->tile_columns - j < tiles - lane ? z->tile_columns - j : tiles - lane;
            const TYPE *plane = src + image * z->src_image + channel * z->src_channel;
            for (index_t a = 0; a < n; a++) {
                const index_t y = i * m + a - z->top;
                TYPE *to = elements + a * n * z->lanes + lane;
                if (y < 0 || y >= z->height) {
                    for (index_t x = 0; x < run * m + 2; x++) line[x] = fill;
                } else NAMED(padded_line)(z, plane + y * z->src_line, j * m - z->left, run * m + 2, fill, line);
                if (m == 2) NAMED(deal)(2, line, run, to, z->lanes);
                else NAMED(deal)(4, line, run, to, z->lanes);
            }
            lane += run;
        }
        ((transform_function *)s->kernel->function)(&loop, elements, v + channel * z->lanes);
    }
}
