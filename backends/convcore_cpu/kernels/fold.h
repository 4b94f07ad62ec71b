/* grad_input under a boundary of pixels: what fell on the padding goes back to the pixels that stood there.
 *
 *     out[image, c, h, w] = bias[c] + sum_{i is h} sum_{j is w} src[image, c, i, j]
 *
 * src is the gradient of the padded image, in the workspace, laid out as out is.  `i is h` where the boundary puts line
 * h at line i of the padded image; the tables list those.  Columns inside are added up a line at a time, those outside
 * one by one after them: a fixed order.
 *
 * A task is one line of one channel (or of a half of a complex one).
 */
static void NAMED(fold)(const void *step, char *const *buffers, index_t images, index_t task) {
    const fold_step *s = step;
    const fold_sizes *z = &s->sizes;
    const index_t h = task % z->lines, plane = task / z->lines;
    const index_t image = plane / z->channels, channel = plane % z->channels;
    const index_t number = channel / z->interleave, half = channel % z->interleave;
    const TYPE *src =
        (const TYPE *)buffers[WORKSPACE] + z->src_offset + image * z->src_image + number * z->src_channel + half;
    TYPE *out = (TYPE *)buffers[OUT] + image * z->out_image + number * z->out_channel + half + h * z->out_line;
    const TYPE start = z->bias_buffer < 0 ? 0 : ((const TYPE *)buffers[z->bias_buffer])[channel];
    (void)images;
    for (index_t w = 0; w < z->width; w++) out[w * z->column] = start;
    for (index_t at = s->line_ends[h]; at < s->line_ends[h + 1]; at++) {
        const TYPE *line = src + s->line_of[at] * z->src_line;
        for (index_t w = 0; w < z->width; w++) out[w * z->column] += line[(z->left + w) * z->column];
        for (index_t j = 0; j < z->outside; j++) {
            out[s->column_of[2 * j + 1] * z->column] += line[s->column_of[2 * j] * z->column];
        }
    }
}
