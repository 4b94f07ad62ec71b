/* Bring what a piece of the result needs of some planes into a band small enough for the first caches.
 *
 *     band[c, phase (v, u), i, j] = x[c, lines[u](first_line + i), columns[v](first_column + j)]
 *
 * Positions outside the source are fill, or what the tables line_of and column_of name: pack.h's planes, for one piece.
 * Of each line only those positions are written that the planes have, and up to a vector past them, which the next line
 * overwrites; the caller leaves a vector of room after each phase.  What follows is read by lanes that are dropped.
 */

/* Elements `step` apart side by side; up to a vector is written past the end. */
static inline __attribute__((always_inline)) void NAMED(copy_elements)(TYPE *to, const TYPE *from, index_t step,
                                                                       index_t count) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    if (step == 1) {
        index_t j = 0;
        for (; j + LANES <= count; j += LANES) *(NAMED(vector) *)(to + j) = *(const NAMED(vector) *)(from + j);
        if (j < count) *(NAMED(vector) *)(to + j) = NAMED(load_lanes)(from + j, count - j);
    } else if (step == 2) {
        for (index_t j = 0; j < count; j += LANES, from += 2 * LANES) {
            const index_t left = 2 * (count - j) - 1;
            const NAMED(vector) low = NAMED(load_lanes)(from, left);
            const NAMED(vector) high = left > LANES ? NAMED(load_lanes)(from + LANES, left - LANES) : low;
            *(NAMED(vector) *)(to + j) = NAMED(every)(low, high, 0);
        }
    } else {
        for (index_t j = 0; j < count; j++) to[j] = from[j * step];
    }
}

/* Elements in turns: the first, third, ... to one line, the others to another; both as copy_elements. */
static inline __attribute__((always_inline)) void NAMED(split_elements)(TYPE *first, TYPE *second, const TYPE *from,
                                                                        index_t count) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    for (; count > 0; count -= 2 * LANES, from += 2 * LANES, first += LANES, second += LANES) {
        NAMED(vector) low, high;
        if (count >= 2 * LANES) {
            low = *(const NAMED(vector) *)from;
            high = *(const NAMED(vector) *)(from + LANES);
        } else {
            low = NAMED(load_lanes)(from, count);
            high = count > LANES ? NAMED(load_lanes)(from + LANES, count - LANES) : low;
        }
        *(NAMED(vector) *)first = NAMED(every)(low, high, 0);
        *(NAMED(vector) *)second = NAMED(every)(low, high, 1);
    }
}

/* As copy_elements. */
static inline void NAMED(fill_positions)(TYPE *to, index_t first, index_t last, TYPE fill) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    for (index_t j = first; j < last; j += LANES) *(NAMED(vector) *)(to + j) = fill - (NAMED(vector)){0};
}

/* The columns first .. first+count-1 of a phase; those in lo .. hi-1 are in the source. */
typedef struct {
    index_t count, lo, hi, base, step;
    const index_t *of; /* or NULL */
} NAMED(band_columns);

static inline void NAMED(fill_line)(TYPE *to, const TYPE *from, const NAMED(band_columns) * columns, TYPE fill) {
    const index_t lo = columns->lo, hi = columns->hi;
    if (!columns->of) NAMED(fill_positions)(to, 0, lo, fill);
    NAMED(copy_elements)(to + lo, from + columns->base + lo * columns->step, columns->step, hi - lo);
    if (!columns->of) {
        NAMED(fill_positions)(to, hi, columns->count, fill);
        return;
    }
    for (index_t j = 0; j < lo; j++) to[j] = from[columns->of[j]];
    for (index_t j = hi; j < columns->count; j++) to[j] = from[columns->of[j]];
}

static NAMED(band_columns) NAMED(columns_of)(const band *s, index_t phase, index_t first_column, index_t band_columns) {
    const axis across = s->columns[phase];
    const index_t left = across.size - first_column, count = left < band_columns ? left : band_columns;
    const index_t before = across.lo - first_column, end = across.hi - first_column;
    const index_t lo = before < 0 ? 0 : before < count ? before : count;
    return (NAMED(band_columns)){count,
                                 lo,
                                 end < lo      ? lo
                                 : end < count ? end
                                               : count,
                                 across.base + first_column * across.step,
                                 across.step,
                                 s->column_of ? s->column_of + phase * across.size + first_column : NULL};
}

/* Which of two phases has the first of elements that are theirs in turns; -1 if they are not. */
static int NAMED(first_in_turns)(const NAMED(band_columns) * phases) {
    if (phases[0].of || phases[0].step != 2) return -1;
    const index_t starts[] = {phases[0].base + 2 * phases[0].lo, phases[1].base + 2 * phases[1].lo};
    const int first = starts[1] < starts[0];
    const index_t more = phases[first].hi - phases[first].lo - (phases[!first].hi - phases[!first].lo);
    return starts[!first] == starts[first] + 1 && (more == 0 || more == 1) ? first : -1;
}

/* A line of two phases whose elements are in turns. */
static inline void NAMED(fill_in_turns)(TYPE *const to[2], const TYPE *from, const NAMED(band_columns) * phases,
                                        int first, TYPE fill) {
    const NAMED(band_columns) *one = phases + first, *other = phases + !first;
    for (int v = 0; v < 2; v++) NAMED(fill_positions)(to[v], 0, phases[v].lo, fill);
    NAMED(split_elements)(to[first] + one->lo, to[!first] + other->lo, from + one->base + 2 * one->lo,
                          one->hi - one->lo + other->hi - other->lo);
    for (int v = 0; v < 2; v++) NAMED(fill_positions)(to[v], phases[v].hi, phases[v].count, fill);
}

/* The lines of one or both column phases from `phase` on. */
static inline __attribute__((always_inline)) void
NAMED(fill_phases)(const int at_once, const band *s, const TYPE *x, index_t channels, index_t phase, index_t first_line,
                   index_t first_column, index_t band_lines, index_t band_columns, TYPE *band) {
    const band_sizes *z = &s->sizes;
    const TYPE fill = *(const TYPE *)s->fill;
    NAMED(band_columns) columns[2];
    for (int k = 0; k < at_once; k++) columns[k] = NAMED(columns_of)(s, phase + k, first_column, band_columns);
    const int first = at_once == 2 ? NAMED(first_in_turns)(columns) : -1;
    for (index_t u = 0; u < z->line_phases; u++) {
        const axis lines = s->lines[u];
        const index_t last = lines.size < first_line + band_lines ? lines.size : first_line + band_lines;
        const index_t *const line_of = s->line_of ? s->line_of + u * lines.size : NULL;
        for (index_t c = 0; c < channels; c++) {
            const TYPE *from = x + c * z->x_channel;
            TYPE *to = band + c * z->channel + (phase * z->line_phases + u) * z->phase;
            for (index_t i = first_line; i < last; i++, to += z->pitch) {
                TYPE *const both[] = {to, to + z->line_phases * z->phase};
                const int outside = i < lines.lo || i >= lines.hi;
                const TYPE *const line = from + (outside && line_of ? line_of[i] : lines.base + i * lines.step);
                if (first >= 0 && !outside) {
                    NAMED(fill_in_turns)(both, line, columns, first, fill);
                    continue;
                }
                for (int k = 0; k < at_once; k++) {
                    if (outside && !line_of) NAMED(fill_positions)(both[k], 0, columns[k].count, fill);
                    else NAMED(fill_line)(both[k], line, columns + k, fill);
                }
            }
        }
    }
}

static void NAMED(fill_band)(const band *s, const TYPE *x, index_t channels, index_t first_line, index_t first_column,
                             index_t band_lines, index_t band_columns, TYPE *band) {
    if (s->sizes.column_phases == 2) {
        NAMED(fill_phases)(2, s, x, channels, 0, first_line, first_column, band_lines, band_columns, band);
        return;
    }
    for (index_t phase = 0; phase < s->sizes.column_phases; phase++) {
        NAMED(fill_phases)(1, s, x, channels, phase, first_line, first_column, band_lines, band_columns, band);
    }
}

static inline void NAMED(band)(const int rows, const int vectors, const band *s, const TYPE *x, index_t channels,
                               index_t first_line, index_t first_column, index_t lines, index_t columns, TYPE *to) {
    (void)rows, (void)vectors; /* any number */
    NAMED(fill_band)(s, x, channels, first_line, first_column, lines, columns, to);
}
