/* The few pixels that correlate.h leaves over: those past the last whole vector.
 *
 *     out[image, group, m, j] = bias[group, m] + sum_l A[group, m, l] * B[image, group, l, j],   0 <= j < pixels
 *
 * As lanes they would cost as much as a whole vector of pixels: of the 49 of a 7x7 image, a fourth.  Here lanes are
 * terms (inner.h), so one pixel costs a 16th of that; its terms are brought together first.
 *
 * A task is some rows of a group and image.
 */

/* The pixels of rows first_row .. last_row-1. */
static void NAMED(rest_of_rows)(const rest_step *s, const TYPE *a, const TYPE *b, const TYPE *bias, index_t first_row,
                                index_t last_row, TYPE *out) {
    enum { TERMS = 1024 }; /* at a time: what rows have of them stays in the first-level cache for all pixels */
    const rest_sizes *z = &s->sizes;
    const index_t tile_rows = s->kernel->rows;
    TYPE terms[MAX_REST][TERMS], sums[MAX_REST][MAX_REST_ROWS + MAX_TILE_ROWS] = {{0}};
    for (index_t j = 0; bias && j < z->pixels; j++) {
        for (index_t m = first_row; m < last_row; m++) sums[j][m - first_row] = bias[m];
    }
    for (index_t first = 0; first < z->length; first += TERMS) {
        const index_t count = first + TERMS < z->length ? TERMS : z->length - first;
        const index_t *const offsets = s->offsets + 2 * first;
        for (index_t l = 0; l < count; l++) {
            for (index_t j = 0; j < z->pixels; j++) terms[j][l] = b[offsets[2 * l + 1] + j];
        }
        for (index_t row = first_row; row < last_row; row += tile_rows) {
            const inner_loop loop = {s->a_row + row, count};
            for (index_t j = 0; j < z->pixels; j++) {
                ((inner_function *)s->kernel->function)(&loop, a + first, terms[j], sums[j] + row - first_row);
            }
        }
    }
    for (index_t m = first_row; m < last_row; m++) {
        for (index_t j = 0; j < z->pixels; j++) out[s->out_row[m] + j * z->out_column] = sums[j][m - first_row];
    }
}

static void NAMED(rest)(const void *step, char *const *buffers, index_t images, index_t task) {
    const rest_step *s = step;
    const rest_sizes *z = &s->sizes;
    const index_t first_row = task % z->row_tasks * z->rows_per_task;
    const index_t end = first_row + z->rows_per_task < z->rows ? first_row + z->rows_per_task : z->rows;
    const index_t group = task / z->row_tasks % z->groups, image = task / z->row_tasks / z->groups;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer] + z->a_offset + group * z->a_group;
    const TYPE *b = (const TYPE *)buffers[z->b_buffer] + z->b_offset + image * z->b_image + group * z->b_group;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + image * z->out_image + group * z->out_group;
    (void)images;
    for (index_t row = first_row; row < end; row += MAX_REST_ROWS) {
        NAMED(rest_of_rows)(s, a, b, bias, row, row + MAX_REST_ROWS < end ? row + MAX_REST_ROWS : end, out);
    }
}
