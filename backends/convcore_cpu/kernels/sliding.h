/* Sliding-window micro-kernel: lines of x pass under the taps of a kernel.
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
 *     pieces    first line, first column, lines, columns
 *     gathers   out_offset, lines, columns, first patch, end of patches; those of a line of the result stand together
 *     patches   offset in B, offset in W, lines of taps, columns of taps
 *
 * B is a band (band.h), or x itself where a piece sees no padding and needs no phases.
 *
 * Blocking: rows*vectors accumulators for `rows` lines of the result, one line of vectors of x, one broadcast; the nine
 * taps of a 3x3 kernel stay in registers where there is room, and so do those of its phases.  A patch of fewer lines of
 * taps than `rows` loads x anew for each line of the result.  The last tile of a line, and of the lines, is moved back
 * to end with them where they are long enough, otherwise the lanes too many are dropped.
 *
 * SKIP_ZEROS: lines of x that are nothing but zeros around it are not multiplied; half of the work where a large kernel
 * meets a small image.
 *
 * The caller guarantees that a band fits into MAX_BAND_BYTES, and that an infinite weight that meets zeros around
 * grad_out, which the formula does not have, is noticed (bands.h).
 *
 * Source: the line reuse is that of Zhang, Lo and Lu, "High Performance Depthwise and Pointwise Convolutions on Mobile
 * Devices", section 3.1; phases, patches and the order of the loops are ours.
 */
typedef struct {
    const index_t *patch, *patches_end;
    index_t channels, x_channel, w_channel; /* of B and W */
    index_t x_line, x_column; /* from a tap to the next, in B; x_line is also from line to line of the tile */
    index_t w_line, w_column; /* in W */
    index_t line_step, pitch, out_line, out_column;
    index_t first_line, seen, seen_end; /* positions; of a tall patch those lines of x that are not all zero */
    int add;                            /* to what the result has */
} NAMED(window);

/* A compiler would rather load a vector again for every line of the tile than the taps. */
#if defined(__x86_64__)
#define KEEP(vector) __asm__("" : "+v"(vector))
#elif defined(__aarch64__)
#define KEEP(vector) __asm__("" : "+w"(vector))
#else
#define KEEP(vector)
#endif

/* A patch of few taps side by side, held in registers. */
static inline __attribute__((always_inline)) void NAMED(small_patch)(const int rows, const int vectors, const int lines,
                                                                     const int columns, const NAMED(window) * window,
                                                                     const TYPE *x, const TYPE *w, NAMED(tile) sum) {
    NAMED(vector) taps[3][3];
    UNROLL for (int r = 0; r < lines; r++) {
        UNROLL for (int s = 0; s < columns; s++) {
            taps[r][s] = w[r * window->w_line + s * window->w_column] - (NAMED(vector)){0};
            KEEP(taps[r][s]);
        }
    }
    UNROLL for (int i = 0; i < rows + lines - 1; i++, x += window->x_line) {
        UNROLL for (int s = 0; s < columns; s++) {
            UNROLL for (int v = 0; v < vectors; v++) {
                NAMED(vector) lanes = ((NAMED(vector) *)(x + s))[v];
                KEEP(lanes);
                UNROLL for (int m = 0; m < rows; m++) {
                    if (m <= i && i - m < lines) sum[m][v] += lanes * taps[i - m][s];
                }
            }
        }
    }
}

/* Tap s of one line of x meets the lines first .. last-1 of the tile. */
static inline __attribute__((always_inline)) void NAMED(tap_of_line)(const int first, const int last, const int vectors,
                                                                     const TYPE *x, const TYPE *w, index_t w_line,
                                                                     NAMED(tile) sum) {
    NAMED(vector) lanes[MAX_TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) {
        lanes[v] = ((NAMED(vector) *)x)[v];
        KEEP(lanes[v]);
    }
    UNROLL for (int m = first; m < last; m++) {
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += lanes[v] * w[-m * w_line];
    }
}

/* A patch of at least as many lines of taps as the tile has; of lines of x only `seen` .. end-1 count. */
static inline __attribute__((always_inline)) void NAMED(tall_patch)(const int rows, const int vectors,
                                                                    const NAMED(window) * window, const TYPE *x,
                                                                    const TYPE *w, index_t lines, index_t columns,
                                                                    index_t seen, index_t end, NAMED(tile) sum) {
#define LINE(i, first, last)                                                                                           \
    if ((i) >= seen && (i) < end) {                                                                                    \
        for (index_t s = 0; s < columns; s++) {                                                                        \
            NAMED(tap_of_line)(first, last, vectors, x + s * window->x_column, w + s * window->w_column,               \
                               window->w_line, sum);                                                                   \
        }                                                                                                              \
    }                                                                                                                  \
    x += window->x_line;                                                                                               \
    w += window->w_line;
    UNROLL for (int i = 0; i < rows - 1; i++) { LINE(i, 0, i + 1) }
    for (index_t i = rows - 1; i < lines; i++) { LINE(i, 0, rows) }
    UNROLL for (int i = 1; i < rows; i++) { LINE(lines - 1 + i, i, rows) }
#undef LINE
}

static inline __attribute__((always_inline)) void NAMED(low_patch)(const int rows, const int vectors,
                                                                   const NAMED(window) * window, const TYPE *x,
                                                                   const TYPE *w, index_t lines, index_t columns,
                                                                   NAMED(tile) sum) {
    for (index_t r = 0; r < lines; r++, x += window->x_line, w += window->w_line) {
        for (index_t s = 0; s < columns; s++) {
            const TYPE tap = w[s * window->w_column];
            UNROLL for (int m = 0; m < rows; m++) {
                UNROLL for (int v = 0; v < vectors; v++) {
                    sum[m][v] += tap * ((NAMED(vector) *)(x + m * window->x_line + s * window->x_column))[v];
                }
            }
        }
    }
}

/* The patches of all channels; `line` is the position of the tile's first line. */
static inline __attribute__((always_inline)) void NAMED(sum_tile)(const int rows, const int vectors,
                                                                  const NAMED(window) * window, index_t line,
                                                                  const TYPE *x, const TYPE *w, TYPE init,
                                                                  NAMED(tile) sum) {
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = init - (NAMED(vector)){0};
    }
    for (index_t c = 0; c < window->channels; c++, x += window->x_channel, w += window->w_channel) {
        for (const index_t *patch = window->patch; patch < window->patches_end; patch += 4) {
            const TYPE *x_at = x + patch[0], *w_at = w + patch[1];
            const index_t lines = patch[2], columns = patch[3];
            if (window->x_column == 1 && lines <= 3 && columns <= 3) {
#define SMALL(high, wide)                                                                                              \
    if (rows * vectors + high * wide + vectors < VECTOR_REGISTERS && lines == high && columns == wide) {               \
        NAMED(small_patch)(rows, vectors, high, wide, window, x_at, w_at, sum);                                        \
        continue;                                                                                                      \
    }
                SMALL(3, 3)
                SMALL(2, 2)
                SMALL(2, 1)
                SMALL(1, 2)
                SMALL(1, 1)
#undef SMALL
            }
            if (lines >= rows)
                NAMED(tall_patch)(rows, vectors, window, x_at, w_at, lines, columns, window->seen - line,
                                  window->seen_end - line, sum);
            else NAMED(low_patch)(rows, vectors, window, x_at, w_at, lines, columns, sum);
        }
    }
}

/* Store the lanes and lines of a tile that are kept. */
static inline __attribute__((always_inline)) void NAMED(store_sums)(const int rows, const int vectors,
                                                                    const NAMED(window) * window, NAMED(tile) sum,
                                                                    index_t lines, index_t columns, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const index_t out_line = window->line_step * window->out_line;
    if (lines == rows && columns == vectors * LANES && !window->add) {
        UNROLL for (int m = 0; m < rows; m++) {
            UNROLL for (int v = 0; v < vectors; v++) ((NAMED(vector) *)(out + m * out_line))[v] = sum[m][v];
        }
        return;
    }
    UNROLL for (int m = 0; m < rows; m++) {
        if (m >= lines) return;
        UNROLL for (int v = 0; v < vectors; v++) {
            TYPE *const to = out + m * out_line + v * LANES;
            const index_t kept = columns - v * LANES;
            if (kept <= 0) continue;
            if (window->add) sum[m][v] += NAMED(load_lanes)(to, kept);
            NAMED(store_lanes)(to, sum[m][v], kept);
        }
    }
}

/* Lines of the result whose columns are those of several gathers in turns, through buffers. */
static inline void NAMED(store_apart)(const TYPE *from, index_t other, TYPE *line, index_t step, index_t kept,
                                      index_t odd) {
    if (other) {
        NAMED(store_in_turns)(from, other, kept <= odd ? 2 * kept : 2 * odd + 1, line);
        return;
    }
    for (index_t j = 0; j < kept; j++) line[j * step] = from[j];
}

/* The lines of a gather, or of two interleaved ones, from a band. */
static inline __attribute__((always_inline)) void NAMED(slide)(const int rows, const int vectors,
                                                               NAMED(window) * window, const sliding_step *s,
                                                               const index_t *gather, index_t lines, index_t columns,
                                                               index_t odd, const TYPE *b, const TYPE *w, TYPE init,
                                                               TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const index_t tile_columns = vectors * LANES, step = window->line_step;
    const int apart = window->out_column != 1, moves = !apart && !window->add;
    const index_t others = apart ? s->sizes.interleaved : 1;
    /* Lines `step` apart share lines of x: those from `first` on, for every first < step. */
    for (index_t first = 0, next = 0; first < step; next += step * rows) {
        if (next >= lines) {
            next = ++first - step * rows;
            continue;
        }
        const index_t p = moves && step == 1 && next + rows > lines && lines >= rows ? lines - rows : next;
        const index_t whole = step == 1 ? lines - p : (lines - p + step - 1) / step;
        const index_t tile_lines = whole < rows ? whole : rows;
        for (index_t q = 0; q < columns; q += tile_columns) {
            const index_t at = moves && q + tile_columns > columns && columns >= tile_columns ? columns - tile_columns
                                                                                              : q;
            const index_t kept = columns - at < tile_columns ? columns - at : tile_columns;
            const TYPE *const x = b + p * window->pitch + at;
            TYPE *const to = out + p * window->out_line + at * window->out_column;
            NAMED(tile) sum;
            if (!apart) {
                NAMED(sum_tile)(rows, vectors, window, window->first_line + p, x, w, init, sum);
                NAMED(store_sums)(rows, vectors, window, sum, tile_lines, kept, to);
                continue;
            }
            _Alignas(64) TYPE buffer[2 * MAX_TILE];
            for (index_t other = 0; other < others; other++) {
                window->patch = s->patches + 4 * gather[5 * other + 3];
                window->patches_end = s->patches + 4 * gather[5 * other + 4];
                NAMED(sum_tile)(rows, vectors, window, window->first_line + p, x, w, init, sum);
                UNROLL for (int m = 0; m < rows; m++) {
                    UNROLL for (int v = 0; v < vectors; v++) {
                        ((NAMED(vector) *)(buffer + other * MAX_TILE + m * tile_columns))[v] = sum[m][v];
                    }
                }
            }
            for (index_t m = 0; m < tile_lines; m++) {
                NAMED(store_apart)(buffer + m * tile_columns, others == 2 ? MAX_TILE : 0,
                                   to + m * step * window->out_line, window->out_column, kept, odd - at);
            }
        }
    }
}

/* Whether a piece can be read where x lies: every position is inside, and no tile reads further. */
static inline int NAMED(is_inside)(const sliding_step *s, const index_t *piece, index_t rows, index_t columns) {
    const sliding_sizes *z = &s->sizes;
    const axis *down = s->band.lines, *across = s->band.columns;
    return s->band.sizes.line_phases * s->band.sizes.column_phases == 1 && across->step == 1 && z->gathers == 1 &&
           z->line_step == 1 && z->out_column == 1 && !z->over_images && piece[2] >= rows && piece[3] >= columns &&
           piece[0] >= down->lo && piece[0] + piece[2] + z->more_lines <= down->hi && piece[1] >= across->lo &&
           piece[1] + piece[3] + z->more_columns <= across->hi;
}

/* The lines of all rows and gathers of a group. */
static inline __attribute__((always_inline)) void NAMED(slide_group)(const int rows, const int vectors,
                                                                     NAMED(window) * window, const sliding_step *s,
                                                                     const index_t *piece, const TYPE *b, const TYPE *w,
                                                                     const TYPE *bias, TYPE *out) {
    const sliding_sizes *z = &s->sizes;
    const index_t first_line = piece[0], first_column = piece[1];
    for (index_t row = 0; row < z->rows; row++, w += z->w_row, out += z->out_row) {
        const TYPE init = bias ? bias[row] : 0;
        for (index_t set = 0; set < z->gathers; set += z->interleaved) {
            const index_t *gather = s->gathers + 5 * set;
            const index_t high = gather[1] - first_line, lines = high < piece[2] ? high : piece[2];
            const index_t wide = gather[2] - first_column, columns = wide < piece[3] ? wide : piece[3];
            const index_t odd = z->interleaved == 2 ? gather[5 + 2] - first_column : 0;
            window->patch = s->patches + 4 * gather[3];
            window->patches_end = s->patches + 4 * gather[4];
            NAMED(slide)(rows, vectors, window, s, gather, lines, columns, odd, b, w, init,
                         out + gather[0] + first_line * z->out_line + first_column * z->out_column);
        }
    }
}

/* One piece of the result of some groups. */
static inline __attribute__((always_inline)) void NAMED(sliding)(const int rows, const int vectors,
                                                                 const sliding_step *s, const index_t *piece,
                                                                 const TYPE *x, const TYPE *w, const TYPE *bias,
                                                                 int how, TYPE *out, index_t groups) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const sliding_sizes *z = &s->sizes;
    _Alignas(64) TYPE room[MAX_BAND_BYTES / sizeof(TYPE) + MAX_TILE];
    const TYPE *b = room;
    NAMED(window)
    window = {.channels = z->channels, .x_channel = s->band.sizes.channel, .w_channel = z->w_channel,
              .x_column = z->column_step, .w_line = z->w_line, .w_column = z->w_column,
              .line_step = z->line_step, .pitch = s->band.sizes.pitch, .out_line = z->out_line,
              .out_column = z->out_column, .first_line = piece[0], .seen = 0,
              .seen_end = s->band.lines->size, .add = how & ADD};
    if (how & SKIP_ZEROS) {
        window.seen = s->band.lines->lo;
        window.seen_end = s->band.lines->hi;
    }
    if (NAMED(is_inside)(s, piece, rows, vectors * LANES)) {
        window.x_channel = s->band.sizes.x_channel;
        window.pitch = s->band.lines->step;
        b = x + s->band.lines->base + piece[0] * window.pitch + s->band.columns->base + piece[1];
    } else
        NAMED(fill_band)(&s->band, x, groups * z->channels, piece[0], piece[1], piece[2] + z->more_lines,
                         piece[3] + z->more_columns, room);
    window.x_line = z->line_step * window.pitch;
    for (index_t group = 0; group < groups; group++) {
        NAMED(slide_group)(rows, vectors, &window, s, piece, b, w, bias, out);
        b += z->channels * window.x_channel;
        w += z->w_group, out += z->out_group;
        if (bias) bias += z->rows;
    }
}
#undef KEEP
