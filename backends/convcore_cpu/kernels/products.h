/* Winograd's products for the gradient of a weight, from points to taps.
 *
 *     out[k, c, tap] = G^T M G,  M[point] = sum_tile V[tile's block, point, c, tile] * G[point, k / columns, tile,
 * k % columns]
 *
 * V are the points of the tiles of x as tiles.h makes them, G those of grad_out as grads.h does. What accumulate.h and
 * taps.h do one after the other, for so few tiles that those of a panel of G stay in the second-level cache: the sums,
 * four times as many as the weight has elements for m = 4, never leave the core.
 *
 * A task is one tile of a micro-kernel: some c by some k, all points.  Its sums are on the stack, then the taps, turned
 * so that the kernels of a k are stored as one run.
 *
 * A value that is not finite is reported, and the plan computes again without transforms.
 */

/* Store taps, [c and tap][k], as `count` neighbouring elements of each k. */
static void NAMED(store_taps)(const products_step *s, const TYPE *taps, index_t count, index_t wide, TYPE *out) {
    enum { TAPS = 9 };
    const index_t columns = s->kernel->columns, lanes = s->transform->columns, row = s->sizes.rows * TAPS;
    _Alignas(64) TYPE turned[MAX_LANES * MAX_LANES];
    for (index_t first = 0; first < count; first += lanes, taps += lanes * columns) {
        const index_t left = count - first < lanes ? count - first : lanes;
        for (index_t k = 0; k < wide; k += lanes) {
            const index_t high = wide - k < lanes ? wide - k : lanes;
            TYPE *to = out + k * row + first;
            if (s->turn) {
                const int is_whole = left == lanes && high == lanes;
                const turn_loop loop = {columns, is_whole ? row : lanes, lanes, 0};
                ((turn_function *)s->turn->function)(&loop, taps + k, is_whole ? to : turned);
                for (index_t lane = 0; lane < high && !is_whole; lane++) {
                    memcpy(to + lane * row, turned + lane * lanes, (size_t)left * sizeof(TYPE));
                }
                continue;
            }
            for (index_t lane = 0; lane < high; lane++) {
                for (index_t i = 0; i < left; i++) to[lane * row + i] = taps[i * columns + k + lane];
            }
        }
    }
}

static void NAMED(products)(const void *step, char *const *buffers, index_t images, index_t task) {
    enum { TAPS = 9 };
    const products_step *s = step;
    const products_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, tile_rows = s->kernel->rows, lanes = s->transform->columns;
    const index_t c = task % z->row_blocks * tile_rows, panel = task / z->row_blocks, k = panel * columns;
    const index_t rows = z->rows - c < tile_rows ? z->rows - c : tile_rows;
    const index_t wide = z->columns - k < columns ? z->columns - k : columns;
    const TYPE *workspace = (const TYPE *)buffers[WORKSPACE];
    const TYPE *v = workspace + z->v_offset, *g = workspace + z->g_offset + panel * z->g_panel;
    const TYPE zeros[MAX_TILE_ROWS] = {0};
    const panel_loop whole = {.repeats = z->blocks - 1,
                              .length = z->tiles,
                              .a_repeat = z->v_block,
                              .b_repeat = z->tiles * columns,
                              .a_step = 1,
                              .a_row = s->a_row + c,
                              .out_row = s->tile_row};
    panel_loop last = whole;
    _Alignas(64) TYPE seen[MAX_LANES] = {0};
    const transform_loop to_taps = {
        .in_offsets = s->in_offsets, .out_offsets = s->out_offsets, .vectors = columns / lanes, .seen = seen};
    _Alignas(64) TYPE sums[MAX_POINTS * MAX_POINTS * MAX_TILE];
    _Alignas(64) TYPE taps[TAPS * MAX_TILE + MAX_LANES * MAX_TILE_COLUMNS]; /* room for what is turned past the last */
    (void)images;
    last.repeats = 1, last.length = z->last_tiles;
    for (index_t point = 0; point < z->points; point++) {
        const TYPE *const a = v + point * z->v_point, *const b = g + point * z->g_point;
        TYPE *const tile = sums + point * tile_rows * columns;
        if (whole.repeats) ((panel_function *)s->kernel->function)(&whole, a, b, zeros, tile);
        ((panel_function *)s->kernel->function)(&last, a + whole.repeats * whole.a_repeat,
                                                b + whole.repeats * whole.b_repeat, whole.repeats ? NULL : zeros, tile);
    }
    for (index_t r = 0; r < rows; r++) {
        ((transform_function *)s->transform->function)(&to_taps, sums + r * columns, taps + r * TAPS * columns);
    }
    NAMED(store_taps)(s, taps, rows * TAPS, wide, (TYPE *)buffers[OUT] + (k * z->rows + c) * TAPS);
    NAMED(report_not_finite)(seen, buffers);
}
