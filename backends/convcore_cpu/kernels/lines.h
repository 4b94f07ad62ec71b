/* grad_weight of groups of few channels by dot products (dot.h has the formula).
 *
 * The pixels are summed in `parts` of neighbouring chunks of lines and columns, into the workspace (reduce.h adds them
 * up), or in one, straight into the weight.
 *
 * A task is one part of some groups; a step may have some channels of each group only.
 */
static void NAMED(lines)(const void *step, char *const *buffers, index_t images, index_t task) {
    const lines_step *s = step;
    const lines_sizes *z = &s->sizes;
    dot_function *const dot = (dot_function *)s->kernel->function;
    const index_t part = task % z->parts, first = task / z->parts * z->groups_per_task;
    const index_t last = first + z->groups_per_task < z->groups ? first + z->groups_per_task : z->groups;
    const index_t across = (z->width + z->columns_at_once - 1) / z->columns_at_once;
    const index_t chunks = (z->lines + z->lines_at_once - 1) / z->lines_at_once * across, all = images * chunks;
    const index_t begin = all * part / z->parts, end = all * (part + 1) / z->parts;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + part * z->out_part;
    for (index_t group = first; group < last; group++) {
        const TYPE *x = (const TYPE *)buffers[z->x_buffer] + z->x_offset + group * z->x_group;
        const TYPE *g = (const TYPE *)buffers[z->g_buffer] + z->g_offset + group * z->k_per_group * z->g_channel;
        for (index_t at = begin; at < end; at++) {
            const index_t image = at / chunks, line = at % chunks / across * z->lines_at_once;
            const index_t column = at % across * z->columns_at_once;
            const index_t lines = z->lines - line < z->lines_at_once ? z->lines - line : z->lines_at_once;
            const index_t columns = z->width - column < z->columns_at_once ? z->width - column : z->columns_at_once;
            const index_t chunk[] = {line, column, lines, columns};
            dot(s, x + image * z->x_image, g + image * z->g_image, chunk, at > begin || !z->one_batch,
                out + group * z->k_per_group * z->out_channel);
        }
    }
}
