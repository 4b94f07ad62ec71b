/* Winograd's transform of the weight: kernels to points, in pieces of r taps a line and a column.
 *
 *     U[row / dst_rows, point, term*pieces + piece, row % dst_rows] = G w G^T,  w[tap] = weight[row*src_row +
 * term*src_term + tap of the piece]
 *
 * Lanes are the rows of the products to come, so that the rows of a tile are read from one cache line.  A table says
 * where the taps of each line and column piece lie, in reverse for grad_input; where it has none of a tap it names a
 * vector of zeros.  Lanes past the last row are 0.
 *
 * A task is one block of rows and some terms.
 */
/* Transform terms first .. last-1 of one block of rows to where `u` has the first of them, `pitch` apart. */
static void NAMED(transform_weights)(const weights_step *s, const TYPE *weight, index_t row, index_t first,
                                     index_t last, index_t pitch, TYPE *u) {
    enum { LANES = MAX_LANES * sizeof(f32) / sizeof(TYPE) };
    const weights_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, left = z->first_row + z->rows - row, rows = left < lanes ? left : lanes;
    const index_t half_line = z->column_pieces * z->column_n * lanes;
    /* Whole vectors are read of the last row too, if the weight is that long. */
    const index_t last_row = (row + lanes - 1) * z->src_row;
    const index_t read = (z->taps + s->turn->columns - 1) / s->turn->columns * s->turn->columns;
    turn_loop turn = {z->src_row, lanes, z->taps, 1};
    /* The vector after the last tap, and the line after the last, are zeros. */
    _Alignas(64) TYPE taps[(MAX_TAPS + 1) * LANES] = {0};
    _Alignas(64) TYPE half[2 * MAX_TAPS * MAX_POINTS * LANES];
    memset(half + z->kernel_lines * half_line, 0, (size_t)half_line * sizeof(TYPE));
    weight += row * z->src_row;
    for (index_t term = first; term < last; term++) {
        const TYPE *from = weight + term * z->src_term;
        turn.may_overrun = last_row + term * z->src_term + read <= z->size;
        if (rows == lanes) ((turn_function *)s->turn->function)(&turn, from, taps);
        else
            for (index_t lane = 0; lane < rows; lane++, from += z->src_row) {
                for (index_t tap = 0; tap < z->taps; tap++) taps[tap * lanes + lane] = from[tap];
            }
        for (index_t piece = 0; s->whole && piece < z->line_pieces * z->column_pieces; piece++, u += pitch) {
            const transform_loop loop = {.in_offsets = s->whole_taps + piece * z->line_r * z->column_r,
                                         .out_offsets = s->whole_offsets,
                                         .vectors = 1,
                                         .groups = 1};
            ((transform_function *)s->whole->function)(&loop, taps, u);
        }
        if (s->whole) continue;
        for (index_t line = 0; line < z->kernel_lines; line += z->lines_at_once) {
            for (index_t i = line * z->column_pieces; i < (line + 1) * z->column_pieces; i++) {
                const transform_loop loop = {.in_offsets = s->column_taps + i * z->column_r,
                                             .out_offsets = s->half_offsets,
                                             .vectors = 1,
                                             .groups = z->lines_at_once,
                                             .in_group = z->tap_line,
                                             .out_group = half_line};
                ((transform_function *)s->along_columns->function)(&loop, taps, half + i * z->column_n * lanes);
            }
        }
        for (index_t piece = 0; piece < z->line_pieces; piece++) {
            for (index_t across = 0; across < z->column_pieces; across++, u += pitch) {
                const transform_loop loop = {.in_offsets = s->line_taps + piece * z->line_r,
                                             .out_offsets = s->out_offsets,
                                             .vectors = 1,
                                             .groups = z->column_n,
                                             .in_group = lanes,
                                             .out_group = z->dst_point};
                ((transform_function *)s->kernel->function)(&loop, half + across * z->column_n * lanes, u);
            }
        }
    }
}

static void NAMED(weights)(const void *step, char *const *buffers, index_t images, index_t task) {
    const weights_step *s = step;
    const weights_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, block = task / z->term_tasks;
    const index_t first = task % z->term_tasks * z->terms_per_task, pieces = z->line_pieces * z->column_pieces;
    const index_t last = first + z->terms_per_task < z->terms ? first + z->terms_per_task : z->terms;
    const index_t row = block * lanes;
    TYPE *u = (TYPE *)buffers[WORKSPACE] + z->dst_offset + row / z->dst_rows * z->dst_block + row % z->dst_rows;
    (void)images;
    NAMED(transform_weights)(s, (const TYPE *)buffers[SECOND], z->first_row + row, first, last, z->dst_rows,
                             u + first * pieces * z->dst_rows);
}
