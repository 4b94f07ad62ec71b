/* Copy planes into the workspace: padded, split into phases, reordered, converted.
 *
 *     dst[image, channel, phase (v, u), i, j] = src[image, channel, lines[u](i), columns[v](j)], or fill where an axis
 *     has no source; negated if asked for
 *
 * A stride becomes phases: row i of phase u is row i*stride + u of the padded plane, so that the pixels one tap of a
 * kernel meets lie side by side.  Padding is fill.  A layout, a transposition and the halves of complex numbers
 * are strides of the source and the destination.
 *
 * A task copies one block of lines of one phase of one channel.  Instantiated for each SOURCE and TYPE.
 */
static inline void SOURCED(copy_line)(TYPE *dst, index_t dst_step, const SOURCE *src, index_t src_step, index_t count,
                                      int negate) {
    if (dst_step == 1 && src_step == 1 && !negate) {
        for (index_t j = 0; j < count; j++) dst[j] = (TYPE)src[j];
    } else if (negate) {
        for (index_t j = 0; j < count; j++) dst[j * dst_step] = -(TYPE)src[j * src_step];
    } else {
        for (index_t j = 0; j < count; j++) dst[j * dst_step] = (TYPE)src[j * src_step];
    }
}

static inline void SOURCED(fill_line)(TYPE *dst, index_t step, index_t count, TYPE fill) {
    for (index_t j = 0; j < count; j++) dst[j * step] = fill;
}

static void SOURCED(pack)(const void *step, char *const *buffers, index_t images, index_t task) {
    const pack_step *s = step;
    const pack_sizes *z = &s->sizes;
    const index_t block = task % z->line_blocks;
    const index_t phase = task / z->line_blocks % (z->line_phases * z->column_phases);
    const index_t plane = task / z->line_blocks / (z->line_phases * z->column_phases);
    const index_t image = plane / z->channels, channel = plane % z->channels;
    const axis lines = s->lines[phase % z->line_phases], columns = s->columns[phase / z->line_phases];
    const SOURCE *src = (const SOURCE *)buffers[z->src_buffer] + z->src_offset + image * z->src_image +
                        channel * z->src_channel + columns.base;
    TYPE *dst = (TYPE *)buffers[WORKSPACE] + z->dst_offset + image * z->dst_image + channel * z->dst_channel +
                phase * z->dst_phase;
    const TYPE fill = *(const TYPE *)s->fill;
    const index_t first = block * z->lines_per_block;
    const index_t last = first + z->lines_per_block < lines.size ? first + z->lines_per_block : lines.size;
    (void)images;
    for (index_t i = first; i < last; i++) {
        TYPE *line = dst + i * z->dst_line;
        if (i < lines.lo || i >= lines.hi) {
            SOURCED(fill_line)(line, z->dst_column, columns.size, fill);
            continue;
        }
        SOURCED(fill_line)(line, z->dst_column, columns.lo, fill);
        SOURCED(copy_line)(line + columns.lo * z->dst_column, z->dst_column,
                           src + lines.base + i * lines.step + columns.lo * columns.step, columns.step,
                           columns.hi - columns.lo, (int)z->negate);
        SOURCED(fill_line)(line + columns.hi * z->dst_column, z->dst_column, columns.size - columns.hi, fill);
    }
}
