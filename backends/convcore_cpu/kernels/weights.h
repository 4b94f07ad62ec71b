/* Winograd's transform of the weight: 3x3 kernels to points.
 *
 *     U[block, point, term, lane] = G w G^T,  w[tap] = weight[row*src_row + term*src_term + tap],  row = block*lanes +
 * lane
 *
 * Lanes are the rows of the products to come, so that the rows of a tile are read from one cache line.  The table of
 * offsets may hold the taps in reverse, which is what grad_input needs.  Lanes past the last row are 0.
 *
 * A task is one block of rows and some terms.
 */
static void NAMED(weights)(const void *step, char *const *buffers, index_t images, index_t task) {
    enum { TAPS = 9 };
    const weights_step *s = step;
    const weights_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, block = task / z->term_tasks, row = block * lanes;
    const index_t first = task % z->term_tasks * z->terms_per_task;
    const index_t last = first + z->terms_per_task < z->terms ? first + z->terms_per_task : z->terms;
    const index_t rows = z->rows - row < lanes ? z->rows - row : lanes;
    const TYPE *weight = (const TYPE *)buffers[SECOND] + (z->first_row + row) * z->src_row;
    TYPE *u = (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->dst_block;
    const transform_loop loop = {s->in_offsets, s->out_offsets, 1, NULL};
    _Alignas(64) TYPE taps[TAPS * MAX_LANES] = {0};
    (void)images;
    for (index_t term = first; term < last; term++) {
        for (index_t lane = 0; lane < rows; lane++) {
            const TYPE *from = weight + lane * z->src_row + term * z->src_term;
    UNROLL for (int tap = 0; tap < TAPS; tap++) taps[tap * lanes + lane] = from[tap];
        }
        ((transform_function *)s->kernel->function)(&loop, taps, u + term * lanes);
    }
}
