/* Winograd's transform of the sums of grad_weight: points to the taps of 3x3 kernels.
 *
 *     out[k, c, tap] = G^T M G,  M[point] = src[point, c, k]
 *
 * Lanes are neighbouring k.  A value that is not finite is reported, and the plan computes again without transforms.
 *
 * A task is one vector of k and some c.
 */
static void NAMED(taps)(const void *step, char *const *buffers, index_t images, index_t task) {
    enum { TAPS = 9 };
    const taps_step *s = step;
    const taps_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, k = task / z->c_tasks * lanes, first = task % z->c_tasks * z->c_per_task;
    const index_t last = first + z->c_per_task < z->c ? first + z->c_per_task : z->c;
    const index_t kernels = z->k - k < lanes ? z->k - k : lanes;
    const TYPE *src = (const TYPE *)buffers[WORKSPACE] + z->src_offset + k;
    TYPE *out = (TYPE *)buffers[OUT];
    _Alignas(64) TYPE seen[MAX_LANES] = {0};
    const transform_loop loop = {
        .in_offsets = s->in_offsets, .out_offsets = s->out_offsets, .vectors = 1, .seen = seen};
    _Alignas(64) TYPE taps[TAPS * MAX_LANES];
    (void)images;
    for (index_t c = first; c < last; c++) {
        ((transform_function *)s->kernel->function)(&loop, src + c * z->src_c, taps);
        for (index_t lane = 0; lane < kernels; lane++) {
            TYPE *to = out + ((k + lane) * z->c + c) * TAPS;
    UNROLL for (int tap = 0; tap < TAPS; tap++) to[tap] = taps[tap * lanes + lane];
        }
    }
    NAMED(report_not_finite)(seen, buffers);
}
