/* Sliding-window micro-kernel: lines of x pass under the taps of a kernel, in a band small enough for the first caches.
 *
 *     out[row, p, q] = bias[row] + sum_{c, r, s} W[row, c, r, s] * B[c, p + offset(r), q + offset(s)]
 *
 * For groups of few channels, depthwise above all, where outer.h has no second operand to reuse a vector of x for. Here
 * a vector of x is loaded once for several output lines: line i of x meets tap r of output line i - r.
 *
 * The taps that meet one phase of the planes (geometry.py) lie in equal steps, and are called a patch: `taps` lines of
 * `taps` columns.  A result has pixels of several kinds where grad_input has a stride; those that meet the same patches
 * are called a gather.  Tables, in rows:
 *
 *     gathers   out_offset, lines, columns, first patch, end of patches; those of a line of the result stand together
 *     patches   offset in B, offset in W, lines of taps, columns of taps
 *
 * The band is a copy of what a piece of the result needs of the group's channels: padded, in phases, lanes side by
 * side.
 *
 * Blocking: rows*vectors accumulators for `rows` lines of the result, one line of vectors of x, one broadcast.  A patch
 * of fewer lines of taps than that loads x anew for each line of the result.  The last tile of a line, and of the
 * lines, is moved back to end with them where they are long enough, otherwise stored through a buffer.
 *
 * The caller guarantees that a band fits into MAX_BAND_BYTES.  Edges are fill.  NaN as in correlate.h.
 *
 * Source: the line reuse is that of Zhang, Lo and Lu, "High Performance Depthwise and Pointwise Convolutions on Mobile
 * Devices", section 3.1; phases, patches and the order of the loops are ours.
 */
typedef struct {
    const index_t *patch, *patches_end;
    index_t channels, x_channel, w_channel; /* of B and W */
    index_t x_line, x_column; /* from a tap to the next, in B; x_line is also from line to line of the tile */
    index_t w_line, w_column; /* in W */
} NAMED(window);

static inline __attribute__((always_inline)) void NAMED(window_tile)(const int rows, const int vectors,
                                                                     const NAMED(window) * window, const TYPE *x,
                                                                     const TYPE *w, TYPE init, TYPE *out,
                                                                     index_t out_line) {
    const index_t x_line = window->x_line, x_column = window->x_column;
    const index_t w_line = window->w_line, w_column = window->w_column;
    NAMED(vector) sum[MAX_TILE_ROWS][MAX_TILE_VECTORS];
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = init - (NAMED(vector)){0};
    }
    for (index_t c = 0; c < window->channels; c++, x += window->x_channel, w += window->w_channel) {
        for (const index_t *patch = window->patch; patch < window->patches_end; patch += 4) {
            const TYPE *x_at = x + patch[0], *w_at = w + patch[1];
            const index_t lines = patch[2], columns = patch[3];
            if (lines < rows) {
                for (index_t r = 0; r < lines; r++, x_at += x_line, w_at += w_line) {
                    for (index_t s = 0; s < columns; s++) {
                        const TYPE tap = w_at[s * w_column];
                        UNROLL for (int m = 0; m < rows; m++) {
                            UNROLL for (int v = 0; v < vectors; v++) {
                                sum[m][v] += tap * ((NAMED(vector) *)(x_at + m * x_line + s * x_column))[v];
                            }
                        }
                    }
                }
                continue;
            }
/* A compiler would rather load a vector again for every line of the tile than the taps. */
#if defined(__x86_64__)
#define KEEP(vector) __asm__("" : "+v"(vector))
#elif defined(__aarch64__)
#define KEEP(vector) __asm__("" : "+w"(vector))
#else
#define KEEP(vector)
#endif
#define WINDOW_TAP(first, last, s, x_offset)                                                                           \
    {                                                                                                                  \
        NAMED(vector) lanes[MAX_TILE_VECTORS];                                                                         \
        UNROLL for (int v = 0; v < vectors; v++) {                                                                     \
            lanes[v] = ((NAMED(vector) *)(x_at + (x_offset)))[v];                                                      \
            KEEP(lanes[v]);                                                                                            \
        }                                                                                                              \
        UNROLL for (int m = 0; m < rows; m++) {                                                                        \
            if (m < (first) || m >= (last)) continue;                                                                  \
            UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += lanes[v] * w_at[(s) * w_column - m * w_line];        \
        }                                                                                                              \
    }
#define WINDOW_LINE(first, last)                                                                                       \
    if (columns == 3 && x_column == 1) {                                                                               \
        WINDOW_TAP(first, last, 0, 0)                                                                                  \
        WINDOW_TAP(first, last, 1, 1)                                                                                  \
        WINDOW_TAP(first, last, 2, 2)                                                                                  \
    } else                                                                                                             \
        for (index_t s = 0; s < columns; s++) WINDOW_TAP(first, last, s, s * x_column)                                 \
    x_at += x_line;                                                                                                    \
    w_at += w_line;
            UNROLL for (int i = 0; i < rows - 1; i++) { WINDOW_LINE(0, i + 1) }
            for (index_t i = rows - 1; i < lines; i++) { WINDOW_LINE(0, rows) }
            UNROLL for (int i = 1; i < rows; i++) { WINDOW_LINE(i, rows) }
#undef WINDOW_LINE
#undef WINDOW_TAP
#undef KEEP
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < vectors; v++) ((NAMED(vector) *)(out + m * out_line))[v] = sum[m][v];
    }
}

/* A line of any length in few moves: blocks, the last moved back to end with the line. */
static inline __attribute__((always_inline)) void NAMED(move_line)(TYPE *to, const TYPE *from, index_t count) {
#define MOVE_BLOCKS(bytes)                                                                                             \
    if (count * sizeof(TYPE) >= (bytes)) {                                                                             \
        const index_t block = (bytes) / sizeof(TYPE);                                                                  \
        for (index_t j = 0; j + block < count; j += block) __builtin_memcpy(to + j, from + j, bytes);                  \
        __builtin_memcpy(to + count - block, from + count - block, bytes);                                             \
        return;                                                                                                        \
    }
    MOVE_BLOCKS(VECTOR_BYTES)
    MOVE_BLOCKS(32)
    MOVE_BLOCKS(16)
    MOVE_BLOCKS(8)
    MOVE_BLOCKS(4)
#undef MOVE_BLOCKS
}

static inline void NAMED(fill_positions)(TYPE *to, index_t first, index_t last, TYPE fill) {
    for (index_t j = first; j < last; j++) to[j] = fill;
}

/* Bring positions line .. line+lines-1, column .. column+columns-1 of every phase and channel into the band. */
static void NAMED(fill_band)(const sliding_step *s, const TYPE *x, index_t first_line, index_t first_column,
                             TYPE *band) {
    const sliding_sizes *z = &s->sizes;
    const TYPE fill = *(const TYPE *)s->fill;
    for (index_t phase = 0; phase < z->line_phases * z->column_phases; phase++) {
        const axis lines = s->lines[phase % z->line_phases], columns = s->columns[phase / z->line_phases];
        const index_t last = lines.size < first_line + z->band_lines ? lines.size : first_line + z->band_lines;
        const index_t count =
            columns.size - first_column < z->band_columns ? columns.size - first_column : z->band_columns;
        const index_t before = columns.lo - first_column, end = columns.hi - first_column;
        const index_t lo = before < 0 ? 0 : before < count ? before : count;
        const index_t hi = end < lo ? lo : end < count ? end : count;
        for (index_t c = 0; c < z->channels; c++) {
            const TYPE *from = x + c * z->x_channel + columns.base + (first_column + lo) * columns.step + lines.base;
            TYPE *to = band + c * z->band_channel + phase * z->band_phase;
            for (index_t i = first_line; i < last; i++, to += z->pitch) {
                if (i < lines.lo || i >= lines.hi) {
                    NAMED(fill_positions)(to, 0, count, fill);
                    continue;
                }
                const TYPE *line = from + i * lines.step;
                NAMED(fill_positions)(to, 0, lo, fill);
                if (columns.step == 1) NAMED(move_line)(to + lo, line, hi - lo);
                else if (columns.step == 2)
                    for (index_t j = 0; j < hi - lo; j++) to[lo + j] = line[2 * j];
                else
                    for (index_t j = 0; j < hi - lo; j++) to[lo + j] = line[j * columns.step];
                NAMED(fill_positions)(to, hi, count, fill);
            }
        }
    }
}

static void NAMED(watch)(const TYPE *out, index_t lines, index_t line, index_t columns, index_t column, int *nan_seen) {
    int found = 0;
    for (index_t p = 0; p < lines; p++, out += line) {
        for (index_t q = 0; q < columns; q++) found |= out[q * column] != out[q * column];
    }
    if (found) __atomic_store_n(nan_seen, 1, __ATOMIC_RELAXED);
}

/* One piece of the result: the gathers' lines and columns from first_line and first_column on, as many as the band has
 * room for. */
static inline __attribute__((always_inline)) void NAMED(sliding)(const int rows, const int vectors,
                                                                 const sliding_step *s, const TYPE *x, const TYPE *w,
                                                                 const TYPE *bias, TYPE *out, index_t first_line,
                                                                 index_t first_column, int *nan_seen) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const sliding_sizes *z = &s->sizes;
    const index_t tile_columns = vectors * LANES;
    _Alignas(64) TYPE band[MAX_BAND_BYTES / sizeof(TYPE) + MAX_TILE];
    _Alignas(64) TYPE tile[2 * MAX_TILE];
    NAMED(window)
    window = {.channels = z->channels, .x_channel = z->band_channel, .w_channel = z->w_channel,
              .x_line = z->line_step * z->pitch, .x_column = z->column_step,
              .w_line = z->w_line, .w_column = z->w_column};
    NAMED(fill_band)(s, x, first_line, first_column, band);
    for (index_t row = 0; row < z->rows; row++, w += z->w_row, out += z->out_row) {
        const TYPE init = bias ? bias[row] : 0;
        for (index_t set = 0; set < z->gathers; set += z->interleaved) {
            const index_t *gather = s->gathers + 5 * set;
            const index_t lines = gather[1] - first_line < z->piece_lines ? gather[1] - first_line : z->piece_lines;
            const index_t wide = gather[2] - first_column;
            const index_t columns = wide < z->piece_columns ? wide : z->piece_columns;
            TYPE *const to = out + gather[0] + first_line * z->out_line + first_column * z->out_column;
            for (index_t next = 0; next < lines; next++) {
                /* Of line_step*rows lines the first line_step are gone through one by one. */
                if (next / z->line_step % rows) continue;
                const index_t p = z->line_step == 1 && next + rows > lines && lines >= rows ? lines - rows : next;
                const index_t whole = (lines - p + z->line_step - 1) / z->line_step;
                const index_t tile_lines = whole < rows ? whole : rows;
                for (index_t q = 0; q < columns; q += tile_columns) {
                    const index_t back = z->out_column == 1 && q + tile_columns > columns && columns >= tile_columns
                                             ? columns - tile_columns
                                             : q;
                    const index_t kept = columns - back < tile_columns ? columns - back : tile_columns;
                    /* A line may be written past its end where the next ones are still to come. */
                    const int fits = kept == tile_columns || (z->line_step == 1 && columns == z->out_line &&
                                                              (p + rows - 1) * columns + tile_columns <= lines * columns);
                    const int in_place = z->out_column == 1 && fits && tile_lines == rows;
                    TYPE *const at = to + p * z->out_line + back * z->out_column;
                    for (index_t v = 0; v < z->interleaved; v++) {
                        window.patch = s->patches + 4 * gather[5 * v + 3];
                        window.patches_end = s->patches + 4 * gather[5 * v + 4];
                        NAMED(window_tile)(rows, vectors, &window, band + p * z->pitch + back, w, init,
                                           in_place ? at : tile + v * MAX_TILE,
                                           in_place ? z->line_step * z->out_line : tile_columns);
                    }
                    if (in_place) continue;
                    for (index_t m = 0; m < tile_lines; m++) {
                        TYPE *line = at + m * z->line_step * z->out_line;
                        const TYPE *from = tile + m * tile_columns;
                        if (z->out_column == 1) NAMED(move_line)(line, from, kept);
                        else if (z->interleaved == 2) {
                            const index_t odd = gather[5 + 2] - first_column - back;
                            const index_t pairs = kept < odd ? kept : odd;
                            for (index_t j = 0; j < pairs; j++) {
                                line[2 * j] = from[j];
                                line[2 * j + 1] = from[MAX_TILE + j];
                            }
                            if (pairs < kept) line[2 * pairs] = from[pairs];
                        } else
                            for (index_t j = 0; j < kept; j++) line[j * z->out_column] = from[j];
                    }
                }
            }
            if (nan_seen) NAMED(watch)(to, lines, z->out_line, columns, z->out_column, nan_seen);
        }
    }
}
