/* Copy planes into the workspace: padded, split into phases, reordered, converted.
 *
 *     dst[image, channel, phase (v, u), i, j] = src[image, channel, lines[u](i), columns[v](j)]; negated if asked for
 *
 * Positions outside the source are fill, or what the tables line_of and column_of name.
 *
 * A stride becomes phases: row i of phase u is row i*stride + u of the padded plane, so that the pixels one tap of a
 * kernel meets lie side by side.  A layout, a transposition and the halves of complex numbers
 * are strides of the source and the destination.
 *
 * Where there is a micro-kernel for it, it copies what is inside (collect.h), or turns it (turn.h).
 *
 * A task copies one block of lines of one phase of one channel, or of some phases of columns; all phases of a block
 * follow each other, for they read the same part of the source.  Instantiated for each SOURCE and TYPE.
 */
static inline void SOURCED(copy_line)(TYPE *dst, index_t dst_step, const SOURCE *src, index_t src_step, index_t count,
                                      int negate) {
    if (__builtin_types_compatible_p(SOURCE, TYPE) && dst_step == 1 && src_step == 1 && !negate) {
        memcpy(dst, src, (size_t)count * sizeof(TYPE));
    } else if (dst_step == 1 && src_step == 1 && !negate) {
        for (index_t j = 0; j < count; j++) dst[j] = (TYPE)src[j];
    } else if (dst_step == 1 && src_step == 2 && !negate) { /* a step that a compiler knows becomes shuffles */
        for (index_t j = 0; j < count; j++) dst[j] = (TYPE)src[2 * j];
    } else if (negate) {
        for (index_t j = 0; j < count; j++) dst[j * dst_step] = -(TYPE)src[j * src_step];
    } else {
        for (index_t j = 0; j < count; j++) dst[j * dst_step] = (TYPE)src[j * src_step];
    }
}

/* Lines of neighbouring source elements become columns, a square at a time: a cache line is read once. */
static void SOURCED(turn)(TYPE *dst, index_t dst_line, const SOURCE *src, index_t src_column, index_t lines,
                          index_t columns) {
    enum { SQUARE = 16 };
    TYPE square[SQUARE][SQUARE];
    for (index_t i = 0; i < lines; i += SQUARE) {
        const index_t high = lines - i < SQUARE ? lines - i : SQUARE;
        for (index_t j = 0; j < columns; j += SQUARE) {
            const index_t wide = columns - j < SQUARE ? columns - j : SQUARE;
            for (index_t v = 0; v < wide; v++) {
                for (index_t u = 0; u < high; u++) square[v][u] = (TYPE)src[(j + v) * src_column + i + u];
            }
            for (index_t u = 0; u < high; u++) {
                for (index_t v = 0; v < wide; v++) dst[(i + u) * dst_line + j + v] = square[v][u];
            }
        }
    }
}

static inline void SOURCED(fill_line)(TYPE *dst, index_t step, index_t count, TYPE fill) {
    for (index_t j = 0; j < count; j++) dst[j * step] = fill;
}

static inline void SOURCED(gather)(TYPE *dst, index_t dst_step, const SOURCE *src, const index_t *of, index_t count) {
    for (index_t j = 0; j < count; j++) dst[j * dst_step] = (TYPE)src[of[j]];
}

/* What one phase of columns has, from line `first` on, except what was collected. */
static void SOURCED(pack_phase)(const pack_step *s, const SOURCE *src, index_t line_phase, index_t column_phase,
                                index_t first, index_t last, int turned, TYPE *dst) {
    const pack_sizes *z = &s->sizes;
    const axis lines = s->lines[line_phase], columns = s->columns[column_phase];
    const TYPE fill = *(const TYPE *)s->fill;
    const index_t *const line_of = s->line_of ? s->line_of + line_phase * lines.size : NULL;
    const index_t *const column_of = s->column_of ? s->column_of + column_phase * columns.size : NULL;
    const int collected = s->collect && !turned;
    const int inside = columns.lo == 0 && columns.hi == columns.size && lines.lo <= first && last <= lines.hi;
    if (collected && inside) return;
    dst += column_phase * z->dst_column_phase;
    if (turned && s->turn) {
        const index_t lanes = s->turn->columns, whole = columns.hi / lanes * lanes;
        const turn_loop loop = {columns.step, z->dst_line, last - first, 0};
        const SOURCE *from = src + lines.base + columns.base + first;
        for (index_t j = 0; j < whole; j += lanes) {
            ((turn_function *)s->turn->function)(&loop, from + j * columns.step, dst + first * z->dst_line + j);
        }
        SOURCED(turn)(dst + first * z->dst_line + whole, z->dst_line, from + whole * columns.step, columns.step,
                      last - first, columns.hi - whole);
    } else if (turned) {
        SOURCED(turn)(dst + first * z->dst_line, z->dst_line, src + lines.base + columns.base + first, columns.step,
                      last - first, columns.hi);
    }
    for (index_t i = first; i < last; i++) {
        TYPE *line = dst + i * z->dst_line;
        const int outside = i < lines.lo || i >= lines.hi;
        if (outside && !line_of) {
            SOURCED(fill_line)(line, z->dst_column, columns.size, fill);
            continue;
        }
        const SOURCE *from = src + (outside ? line_of[i] : lines.base + i * lines.step);
        TYPE *right = line + columns.hi * z->dst_column;
        if (outside || !(turned || collected))
            SOURCED(copy_line)(line + columns.lo * z->dst_column, z->dst_column,
                               from + columns.base + columns.lo * columns.step, columns.step, columns.hi - columns.lo,
                               (int)z->negate);
        if (column_of) {
            SOURCED(gather)(line, z->dst_column, from, column_of, columns.lo);
            SOURCED(gather)(right, z->dst_column, from, column_of + columns.hi, columns.size - columns.hi);
        } else {
            SOURCED(fill_line)(line, z->dst_column, columns.lo, fill);
            SOURCED(fill_line)(right, z->dst_column, columns.size - columns.hi, fill);
        }
    }
}

static void SOURCED(pack)(const void *step, char *const *buffers, index_t images, index_t task) {
    const pack_step *s = step;
    const pack_sizes *z = &s->sizes;
    const index_t phase_tasks = (z->column_phases + z->phases_per_task - 1) / z->phases_per_task;
    const index_t line_phase = task % z->line_phases,
                  first_phase = task / z->line_phases % phase_tasks * z->phases_per_task;
    const index_t block = task / z->line_phases / phase_tasks % z->line_blocks;
    const index_t plane = task / z->line_phases / phase_tasks / z->line_blocks;
    const index_t image = plane / z->channels, channel = plane % z->channels;
    const index_t phases_left = z->column_phases - first_phase;
    const index_t phases = phases_left < z->phases_per_task ? phases_left : z->phases_per_task;
    const axis lines = s->lines[line_phase], *const columns = s->columns + first_phase;
    const SOURCE *src =
        (const SOURCE *)buffers[z->src_buffer] + z->src_offset + image * z->src_image + channel * z->src_channel;
    TYPE *dst = (TYPE *)buffers[WORKSPACE] + z->dst_offset + image * z->dst_image + channel * z->dst_channel +
                line_phase * z->dst_line_phase;
    const index_t first = block * z->lines_per_block;
    const index_t last = first + z->lines_per_block < lines.size ? first + z->lines_per_block : lines.size;
    const index_t top = first < lines.lo ? lines.lo : first, bottom = last < lines.hi ? last : lines.hi;
    /* Whether lines of the source become columns. */
    const int turned = lines.step == 1 && columns->step != 1 && z->dst_column == 1 && !z->negate && lines.lo == 0 &&
                       lines.hi == lines.size && columns->lo == 0;
    (void)images;
    if (s->collect && !turned && bottom > top) {
        pixel_run runs[MAX_PHASES_PER_TASK];
        for (index_t v = 0; v < phases; v++) {
            const index_t lo = columns[v].lo, count = columns[v].hi - lo;
            runs[v] = (pixel_run){v * z->dst_column_phase + lo, count, columns[v].base + lo * columns[v].step};
        }
        const collect_loop loop = {.runs = runs,
                                   .count = phases,
                                   .length = bottom - top,
                                   .columns = z->dst_line,
                                   .has_room = (int)z->has_room,
                                   .step = columns->step,
                                   .term = lines.step};
        ((collect_function *)s->collect->function)(&loop, src + lines.base + top * lines.step,
                                                   dst + first_phase * z->dst_column_phase + top * z->dst_line);
    }
    for (index_t v = first_phase; v < first_phase + phases; v++) {
        SOURCED(pack_phase)(s, src, line_phase, v, first, last, turned, dst);
    }
}
