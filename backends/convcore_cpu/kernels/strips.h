/* Forward and grad_input of groups of one channel by strips.
 *
 * strip.h has the formula.  A task is some lines of all planes of the result of some groups.
 *
 * What is not finite: as in bands.h.
 */
static void NAMED(strips)(const void *step, char *const *buffers, index_t images, index_t task) {
    const strips_step *s = step;
    const strips_sizes *z = &s->sizes;
    const index_t first = task % z->pieces * z->lines_per_piece, left = z->out_lines - first;
    const index_t shares = (z->groups + z->groups_per_task - 1) / z->groups_per_task, share = task / z->pieces;
    const index_t group = share % shares * z->groups_per_task, image = share / shares;
    const index_t groups = z->groups - group < z->groups_per_task ? z->groups - group : z->groups_per_task;
    const index_t plane = group * z->rows, taps = s->kernel->rows * s->kernel->rows;
    const TYPE *x = (const TYPE *)buffers[FIRST] + image * z->x_image + group * z->x_channel;
    const TYPE *w = (const TYPE *)buffers[SECOND] + plane * taps;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + plane;
    TYPE *out = (TYPE *)buffers[OUT] + image * z->out_image + plane * z->out_channel;
    const int finite = (z->watch_nan || z->skip_zeros) && NAMED(all_finite)(w, groups * z->rows * taps);
    (void)images;
    if (z->watch_nan && !finite) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
    ((strip_function *)s->kernel->function)(z, x, w, bias, finite, first,
                                            left < z->lines_per_piece ? left : z->lines_per_piece, groups, out);
}

/* grad_weight of groups of one channel by strips.  A task is some groups, in all images. */
static void NAMED(weigh)(const void *step, char *const *buffers, index_t images, index_t task) {
    const strips_step *s = step;
    const strips_sizes *z = &s->sizes;
    const index_t group = task * z->groups_per_task, taps = s->kernel->rows * s->kernel->rows;
    const index_t groups = z->groups - group < z->groups_per_task ? z->groups - group : z->groups_per_task;
    const TYPE *x = (const TYPE *)buffers[FIRST] + group * z->x_channel;
    const TYPE *g = (const TYPE *)buffers[SECOND] + group * z->rows * z->out_channel;
    ((weigh_function *)s->kernel->function)(z, x, g, images, groups, (TYPE *)buffers[OUT] + group * z->rows * taps);
}
