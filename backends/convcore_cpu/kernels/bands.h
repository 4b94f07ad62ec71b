/* Forward and grad_input of groups of few channels by sliding windows (sliding.h has the formula).
 *
 * A task is one piece of the result, `piece_lines` by `piece_columns` pixels of each gather of all rows of a group.
 */
static void NAMED(bands)(const void *step, char *const *buffers, index_t images, index_t task) {
    const sliding_step *s = step;
    const sliding_sizes *z = &s->sizes;
    sliding_function *const sliding = (sliding_function *)s->kernel->function;
    const index_t across = task % z->pieces_across, down = task / z->pieces_across % z->pieces_down;
    const index_t group = task / z->pieces_across / z->pieces_down % z->groups;
    const index_t image = task / z->pieces_across / z->pieces_down / z->groups;
    const TYPE *x = (const TYPE *)buffers[FIRST] + image * z->x_image + group * z->x_group;
    const TYPE *w = (const TYPE *)buffers[SECOND] + group * z->w_group;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
    TYPE *out = (TYPE *)buffers[OUT] + image * z->out_image + group * z->out_group;
    (void)images;
    sliding(s, x, w, bias, out, down * z->piece_lines, across * z->piece_columns,
            z->watch_nan ? (int *)buffers[NAN_SEEN] : NULL);
}
