/* The maximum over windows, and its gradient.
 *
 *     y[n,c,p,q]  = max_{r,s} x[n, c, p*stride_h + r - top, q*stride_w + s - left]   of the pixels inside the image
 *     dx[n,c,i,j] = sum of dy[n,c,p,q] over the windows whose first largest pixel, row by row, is (i, j)
 *
 * A NaN is larger than any number.  The caller guarantees that every window holds a pixel.
 * Forward: a task is a block of lines of one channel; a line of y is kept while the taps pass over it.
 * Gradient: a task is one whole channel, whose windows are taken in order, so sums are the same on any number of
 * threads. Instantiated for each real TYPE.
 */
/* y = max(y, src), with strides that the compiler may know. */
static inline __attribute__((always_inline)) void NAMED(take_largest)(const TYPE *restrict src, TYPE *restrict y,
                                                                      index_t count, index_t step, index_t column) {
    for (index_t q = 0; q < count; q++) {
        const TYPE value = src[q * step], best = y[q * column];
        const TYPE larger = isgreater(value, best) ? value : best;
        y[q * column] = isunordered(value, value) ? value : larger;
    }
}

static void NAMED(max_pool_line)(const pool_sizes *z, const TYPE *x, TYPE *y, index_t p) {
    const index_t top = p * z->line_step - z->top;
    for (index_t q = 0; q < z->out_width; q++) y[q * z->column] = -(TYPE)INFINITY;
    for (index_t r = top < 0 ? -top : 0; r < z->kernel_height && top + r < z->height; r++) {
        for (index_t s = 0; s < z->kernel_width; s++) {
            const index_t left = s - z->left;
            const index_t first = left < 0 ? (-left + z->column_step - 1) / z->column_step : 0;
            const index_t inside = left < z->width ? (z->width - 1 - left) / z->column_step + 1 : 0;
            const index_t count = (inside < z->out_width ? inside : z->out_width) - first;
            const TYPE *src = x + (top + r) * z->in_line + (left + first * z->column_step) * z->column;
            if (z->column > 1) {
                NAMED(take_largest)(src, y + first * z->column, count, z->column_step * z->column, z->column);
            } else if (z->column_step == 1) {
                NAMED(take_largest)(src, y + first, count, 1, 1);
            } else if (z->column_step == 2) {
                NAMED(take_largest)(src, y + first, count, 2, 1);
            } else {
                NAMED(take_largest)(src, y + first, count, z->column_step, 1);
            }
        }
    }
}

static void NAMED(max_pool)(const void *step, char *const *buffers, index_t images, index_t task) {
    const pool_sizes *z = &((const pool_step *)step)->sizes;
    const index_t first = task % z->blocks * z->lines_per_block, plane = task / z->blocks;
    const index_t image = plane / z->channels, channel = plane % z->channels;
    const index_t last = first + z->lines_per_block < z->out_height ? first + z->lines_per_block : z->out_height;
    const TYPE *x = (const TYPE *)buffers[FIRST] + image * z->in_image + channel * z->in_channel;
    TYPE *y = (TYPE *)buffers[OUT] + image * z->out_image + channel * z->out_channel;
    (void)images;
    for (index_t p = first; p < last; p++) NAMED(max_pool_line)(z, x, y + p * z->out_line, p);
}

static index_t NAMED(first_largest)(const pool_sizes *z, const TYPE *x, index_t top, index_t left) {
    const index_t bottom = top + z->kernel_height < z->height ? top + z->kernel_height : z->height;
    const index_t right = left + z->kernel_width < z->width ? left + z->kernel_width : z->width;
    const index_t first_line = top < 0 ? 0 : top, first_column = left < 0 ? 0 : left;
    index_t at = first_line * z->in_line + first_column * z->column;
    for (index_t i = first_line; i < bottom; i++) {
        for (index_t j = first_column; j < right; j++) {
            const index_t here = i * z->in_line + j * z->column;
            if (x[at] != x[at]) return at;
            if (x[here] > x[at] || x[here] != x[here]) at = here;
        }
    }
    return at;
}

static void NAMED(max_pool_grad)(const void *step, char *const *buffers, index_t images, index_t task) {
    const pool_sizes *z = &((const pool_step *)step)->sizes;
    const index_t image = task / z->channels, channel = task % z->channels;
    const index_t in_offset = image * z->in_image + channel * z->in_channel;
    const TYPE *x = (const TYPE *)buffers[FIRST] + in_offset;
    const TYPE *grad_out = (const TYPE *)buffers[SECOND] + image * z->out_image + channel * z->out_channel;
    TYPE *grad = (TYPE *)buffers[OUT] + in_offset;
    (void)images;
    for (index_t i = 0; i < z->height; i++) {
        for (index_t j = 0; j < z->width; j++) grad[i * z->in_line + j * z->column] = 0;
    }
    for (index_t p = 0; p < z->out_height; p++) {
        for (index_t q = 0; q < z->out_width; q++) {
            const index_t top = p * z->line_step - z->top, left = q * z->column_step - z->left;
            grad[NAMED(first_largest)(z, x, top, left)] += grad_out[p * z->out_line + q * z->column];
        }
    }
}
