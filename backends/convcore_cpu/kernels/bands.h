/* Forward and grad_input of groups of few channels, and grad_weight of large kernels, by sliding windows.
 *
 * sliding.h has the formula.  A grad_weight is a correlation with grad_out for the weight; it is summed over images.
 *
 * A task is one piece of the result of all rows of some groups.
 *
 * Where the planes are padded with zeros that the formula does not have (grad_input), a zero times an infinite weight
 * is a NaN that must not be: `watch_nan` reports any weight that is not finite, and exact.h does the batch again. Where
 * the formula has the zeros, only a finite weight may skip them.
 */
static int NAMED(all_finite)(const TYPE *w, index_t count) {
    int found = 0;
    for (index_t i = 0; i < count; i++) {
        const TYPE zero = w[i] * 0, same = zero;
        found |= zero != same;
    }
    return !found;
}

static void NAMED(bands)(const void *step, char *const *buffers, index_t images, index_t task) {
    const sliding_step *s = step;
    const sliding_sizes *z = &s->sizes;
    sliding_function *const sliding = (sliding_function *)s->kernel->function;
    const index_t *const piece = s->pieces + 4 * (task % z->pieces);
    const index_t shares = (z->groups + z->groups_per_task - 1) / z->groups_per_task, share = task / z->pieces;
    const index_t first = share % shares * z->groups_per_task, image = share / shares;
    const index_t last = first + z->groups_per_task < z->groups ? first + z->groups_per_task : z->groups;
    const index_t count = z->over_images ? images : 1;
    for (index_t group = first; group < last; group += z->groups_at_once) {
        const index_t groups = last - group < z->groups_at_once ? last - group : z->groups_at_once;
        const TYPE *x = (const TYPE *)buffers[FIRST] + image * z->x_image + group * z->x_group;
        const TYPE *w = (const TYPE *)buffers[SECOND] + group * z->w_group;
        const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
        TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + image * z->out_image + group * z->out_group;
        for (index_t i = 0; i < count; i++, x += z->x_image, w += z->w_image) {
            const int finite = (z->watch_nan || z->skip_zeros) && NAMED(all_finite)(w, groups * z->w_group);
            if (z->watch_nan && !finite) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
            sliding(s, piece, x, w, bias, (i > 0 ? ADD : 0) | (z->skip_zeros && finite ? SKIP_ZEROS : 0), out, groups);
        }
    }
}
