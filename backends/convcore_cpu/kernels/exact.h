/* What correlate.h computes, without a single product that the formula does not have.
 *
 * inside[l] = (line_lo, line_hi, column_lo, column_hi) are the pixels at which term l of the sum exists; elsewhere B
 * holds padding, and the term is left out instead of multiplied by zero.  Only run when a NaN was seen, so simple
 * rather than fast.
 *
 * A task computes one line of pixels of one row.
 */
static void NAMED(exact)(const void *step, char *const *buffers, index_t images, index_t task) {
    const correlate_step *s = step;
    const correlate_sizes *z = &s->sizes;
    const index_t p = task % z->lines, row = task / z->lines % z->rows;
    const index_t group = task / z->lines / z->rows % z->groups, image = task / z->lines / z->rows / z->groups;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer] + z->a_offset + group * z->a_group + s->a_row[row];
    const TYPE *b =
        (const TYPE *)buffers[z->b_buffer] + z->b_offset + image * z->b_image + group * z->b_group + p * z->pitch;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + image * z->out_image + group * z->out_group +
                s->out_row[row] + p * z->out_line;
    const TYPE start = z->bias_buffer < 0 ? 0 : ((const TYPE *)buffers[z->bias_buffer])[group * z->rows + row];
    (void)images;
    for (index_t q = 0; q < z->width; q++) {
        TYPE sum = start;
        for (index_t l = 0; l < z->length; l++) {
            const index_t *inside = s->inside + 4 * l;
            if (p < inside[0] || p >= inside[1] || q < inside[2] || q >= inside[3]) continue;
            sum += a[s->offsets[2 * l]] * b[s->offsets[2 * l + 1] + q];
        }
        out[q * z->out_column] = sum;
    }
}
