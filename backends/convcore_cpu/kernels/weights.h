/* Winograd's transform of the weight: 3x3 kernels to points.
 *
 *     U[row / dst_rows, point, term, row % dst_rows] = G w G^T,  w[tap] = weight[row*src_row + term*src_term + tap]
 *
 * Lanes are the rows of the products to come, so that the rows of a tile are read from one cache line.  The table of
 * offsets may hold the taps in reverse, which is what grad_input needs.  Lanes past the last row are 0.
 *
 * A task is one block of rows and some terms.
 */
/* Transform terms first .. last-1 of one block of rows to where `u` has the first of them, `pitch` apart. */
static void NAMED(transform_weights)(const weights_step *s, const TYPE *weight, index_t row, index_t first,
                                     index_t last, index_t pitch, TYPE *u) {
    enum { TAPS = 9 };
    const weights_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, left = z->first_row + z->rows - row, rows = left < lanes ? left : lanes;
    const transform_loop loop = {s->in_offsets, s->out_offsets, 1, NULL};
    turn_loop turn = {z->src_row, lanes, TAPS, 1};
    _Alignas(64) TYPE taps[TAPS * MAX_LANES] = {0};
    weight += row * z->src_row;
    for (index_t term = first; term < last; term++, u += pitch) {
        const TYPE *from = weight + term * z->src_term;
        turn.may_overrun = left > lanes || term + 1 < z->terms; /* there is another kernel in memory */
        if (rows == lanes) ((turn_function *)s->turn->function)(&turn, from, taps);
        else
            for (index_t lane = 0; lane < rows; lane++, from += z->src_row) {
    UNROLL for (int tap = 0; tap < TAPS; tap++) taps[tap * lanes + lane] = from[tap];
            }
        ((transform_function *)s->kernel->function)(&loop, taps, u);
    }
}

static void NAMED(weights)(const void *step, char *const *buffers, index_t images, index_t task) {
    const weights_step *s = step;
    const weights_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, block = task / z->term_tasks;
    const index_t first = task % z->term_tasks * z->terms_per_task;
    const index_t last = first + z->terms_per_task < z->terms ? first + z->terms_per_task : z->terms;
    const index_t row = block * lanes;
    TYPE *u = (TYPE *)buffers[WORKSPACE] + z->dst_offset + row / z->dst_rows * z->dst_block + row % z->dst_rows;
    (void)images;
    NAMED(transform_weights)(s, (const TYPE *)buffers[SECOND], z->first_row + row, first, last, z->dst_rows,
                              u + first * z->dst_rows);
}
