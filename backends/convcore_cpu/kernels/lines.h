/* grad_weight by dot-product micro-kernels, into the workspace.
 *
 *     partial[part, k, c, tap] += sum_{lines of the part} sum_q A[image, group*C/G + c, tap, p, q] * B[image, k, p, q]
 *
 * For groups of few channels.  Parts as in accumulate.h.  A task is one pair (k, c) of one part.
 */
static void NAMED(lines)(const void *step, char *const *buffers, index_t images, index_t task) {
    const lines_step *s = step;
    const lines_sizes *z = &s->sizes;
    dot_function *const dot = (dot_function *)s->kernel->function;
    const index_t c = task % z->c_per_group, k = task / z->c_per_group % (z->k_per_group * z->groups);
    const index_t pairs = z->c_per_group * z->k_per_group * z->groups, pair = task % pairs, part = task / pairs;
    const index_t chunks = (z->lines + z->lines_at_once - 1) / z->lines_at_once, all = images * chunks;
    const TYPE *a =
        (const TYPE *)buffers[z->a_buffer] + z->a_offset + (k / z->k_per_group * z->c_per_group + c) * z->a_channel;
    const TYPE *b = (const TYPE *)buffers[z->b_buffer] + z->b_offset + k * z->b_channel;
    TYPE *out = (TYPE *)buffers[WORKSPACE] + z->out_offset + part * z->out_part + pair * z->taps;
    dot_loop loop = {.width = z->width, .a_line = z->a_line, .b_line = z->b_line};
    TYPE sums[MAX_TILE_ROWS];
    for (index_t at = all * part / z->parts; at < all * (part + 1) / z->parts; at++) {
        const index_t image = at / chunks, line = at % chunks * z->lines_at_once;
        loop.lines = z->lines - line < z->lines_at_once ? z->lines - line : z->lines_at_once;
        for (index_t tap = 0; tap < z->taps; tap += s->kernel->rows) {
            const index_t rows = z->taps - tap < s->kernel->rows ? z->taps - tap : s->kernel->rows;
            loop.a_offset = s->a_row + tap;
            dot(&loop, a + image * z->a_image + line * z->a_line, b + image * z->b_image + line * z->b_line, sums);
            for (index_t m = 0; m < rows; m++) out[tap + m] += sums[m];
        }
    }
}
