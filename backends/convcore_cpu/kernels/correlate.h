/* Forward and grad_input by outer-product micro-kernels.
 *
 *     out[image, group, m, p, q] = bias[group, m] + sum_l A[group, m, l] * B[image, group, l, p*pitch + q]
 *
 * Pixels are numbered over the pitch of B's planes, i = p*pitch + q, so that a tile of neighbouring i may run across
 * the ends of lines; the pitch - width results between two lines are computed and dropped.  The last tile is moved
 * back to end at the last pixel, so B is never read past the pixels it must have; what was stored already is not
 * stored again.
 *
 * A task is one tile of pixels of one group and image, by some blocks of rows: B's part of the tile stays in cache
 * while the rows of A stream by.  A full tile without pixels to drop is written in place, any other through a
 * buffer on the stack.
 *
 * Where B's planes are padded with zeros that the formula does not have (grad_input), a zero times an infinite weight
 * is a NaN that must not be: `watch_nan` reports any NaN, and exact.h then does the step again.
 */
static void NAMED(store_tile)(const TYPE *tile, const correlate_step *s, index_t row, index_t rows, index_t start,
                              index_t lo, index_t hi, TYPE *out) {
    const correlate_sizes *z = &s->sizes;
    while (lo < hi) {
        const index_t line = lo / z->pitch, column = lo % z->pitch;
        const index_t line_end = lo - column + z->pitch < hi ? lo - column + z->pitch : hi;
        const index_t kept = line_end - lo < z->width - column ? line_end - lo : z->width - column;
        for (index_t m = 0; m < rows; m++) {
            const TYPE *from = tile + s->tile_row[m] + (lo - start);
            TYPE *to = out + s->out_row[row + m] + line * z->out_line + column * z->out_column;
            if (z->out_column == 1 && kept > 0) memcpy(to, from, (size_t)kept * sizeof(TYPE));
            else
                for (index_t j = 0; j < kept; j++) to[j * z->out_column] = from[j];
        }
        lo = line_end;
    }
}

static int NAMED(has_nan)(const TYPE *tile, index_t count) {
    const TYPE *const same = tile; /* under a second name, since of integers a compiler thinks this a mistake */
    int found = 0;
    for (index_t j = 0; j < count; j++) found |= tile[j] != same[j];
    return found;
}

static void NAMED(correlate)(const void *step, char *const *buffers, index_t images, index_t task) {
    const correlate_step *s = step;
    const correlate_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, tile_rows = s->kernel->rows;
    outer_function *const outer = (outer_function *)s->kernel->function;
    const index_t first_block = task % z->row_tasks * z->blocks_per_task;
    const index_t tile_index = task / z->row_tasks % z->tiles;
    const index_t group = task / z->row_tasks / z->tiles % z->groups;
    const index_t image = task / z->row_tasks / z->tiles / z->groups;
    const index_t pixels = (z->lines - 1) * z->pitch + z->width;
    const index_t lo = tile_index * columns, hi = lo + columns < pixels ? lo + columns : pixels;
    const index_t start = lo + columns <= pixels || pixels < columns ? lo : pixels - columns;
    const int in_place = start == lo && hi - lo == columns && z->out_column == 1 && z->out_line == z->pitch &&
                         z->width == z->pitch && !z->watch_nan;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer] + z->a_offset + group * z->a_group;
    const TYPE *b = (const TYPE *)buffers[z->b_buffer] + z->b_offset + image * z->b_image + group * z->b_group + start;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + image * z->out_image + group * z->out_group;
    outer_loop loop = {.offsets = s->offsets, .length = z->length, .repeats = 1};
    TYPE init[MAX_TILE_ROWS] = {0};
    _Alignas(64) TYPE tile[MAX_TILE];
    /* What lies past the last plane may be anything. */
    const index_t lanes = pixels - start < columns ? pixels - start : columns;
    int nan_seen = 0;
    (void)images;
    for (index_t block = first_block; block < first_block + z->blocks_per_task; block++) {
        const index_t row = block * tile_rows;
        const index_t rows = row + tile_rows <= z->rows ? tile_rows : z->rows - row;
        if (rows <= 0) break;
        for (index_t m = 0; bias && m < rows; m++) init[m] = bias[row + m];
        loop.a_row = s->a_row + row;
        if (in_place && rows == tile_rows) {
            loop.out_row = s->out_row + row;
            outer(&loop, a, b, init, out + lo);
            continue;
        }
        loop.out_row = s->tile_row;
        outer(&loop, a, b, init, tile);
        for (index_t m = 0; z->watch_nan && m < rows; m++) nan_seen |= NAMED(has_nan)(tile + s->tile_row[m], lanes);
        NAMED(store_tile)(tile, s, row, rows, start, lo, hi, out);
    }
    if (nan_seen) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
}
