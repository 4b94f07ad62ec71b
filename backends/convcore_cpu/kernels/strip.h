/* Strip micro-kernels: windows of depthwise layers go down planes that are read where they lie, a vector wide.
 *
 *     gather    out[p, q] = bias + sum_{r, s} W[r, s] * x[p*step + r - top, q*step + s - left],     step 1 or 2
 *     scatter   out[h, v] = bias + sum W[r, s] * x[i, j],  2*i + r - top = h and 2*j + s - left = v
 *     weigh     out[r, s] = sum_{p, q} G[p, q] * x[p*step + r - top, q*step + s - left]
 *
 * 0 <= r, s < `rows` of the micro-kernel.  Nothing is copied: a line of x is loaded once for every column of taps, by
 * lanes that are inside it, others are zero.  For a step of 2 two vectors become one of every other element.
 *
 * Gather and scatter: the sums of as many lines of the result as a line of x meets stay in registers, and so do 9 taps;
 * more are broadcast from memory.  When a sum is complete it is stored and the others move up.  Columns of the result
 * of a scatter are in pairs, one that meets the even taps and one that meets the odd ones.
 *
 * Weigh: a sum of lanes for every tap, added up at the end of all strips; lines of x move up for the next line of G.
 *
 * Lines outside x are zeros like any other, or, if `skip`, are left out.
 *
 * The caller guarantees that an infinite weight that meets zeros which the formula does not have is noticed (strips.h).
 */
static const TYPE NAMED(no_pixels)[3 * VECTOR_BYTES / sizeof(TYPE) + MAX_STRIP_TAPS];

typedef NAMED(vector) NAMED(strip_taps)[MAX_STRIP_TAPS][MAX_STRIP_TAPS];

/* The sets of lanes in which the vectors loaded of a line are inside it: for a step of 1 one vector for each tap, for a
 * step of 2 three side by side. */
typedef struct {
    NAMED(set) of[MAX_STRIP_TAPS];
} NAMED(strip_sets);

/* Where element 0 is column `at` of `width`, and lanes from `kept` on are dropped. */
static inline __attribute__((always_inline)) NAMED(strip_sets)
    NAMED(sets_at)(const int taps, const int step, index_t at, index_t width, index_t kept) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(strip_sets) sets;
    if (step == 1) {
    UNROLL for (int s = 0; s < taps; s++) {
            const index_t inside = width - at - s;
            sets.of[s] = NAMED(set_of)(-at - s, inside < kept ? inside : kept);
        }
        return sets;
    }
    const index_t elements = 2 * kept + taps - 2, end = width - at < elements ? width - at : elements;
    UNROLL for (int i = 0; i < 3; i++) sets.of[i] = NAMED(set_of)(-at - i * LANES, end - i * LANES);
    return sets;
}

/* Lanes of `a` from lane `by` on, and after them every second one of `b` from lane `odd` on. */
static inline __attribute__((always_inline)) NAMED(vector) NAMED(moved_on)(NAMED(vector) a, NAMED(vector) b,
                                                                           const int by, const int odd) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(vector) to;
    __attribute__((unused)) NAMED(mask) from;
    SHUFFLE_LANES(to, a, b, LANES, j + by < LANES ? j + by : LANES + 2 * (j + by - LANES) + odd)
    return to;
}

/* The lanes of a line under each tap. */
static inline __attribute__((always_inline)) void NAMED(load_line)(const int taps, const int step, const TYPE *from,
                                                                   const NAMED(strip_sets) * sets,
                                                                   NAMED(vector) * lanes) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    if (step == 1) {
        UNROLL for (int s = 0; s < taps; s++) lanes[s] = NAMED(load_set)(from + s, sets->of[s]);
        return;
    }
    NAMED(vector) part[3];
    UNROLL for (int i = 0; i < 3; i++) part[i] = NAMED(load_set)(from + i * LANES, sets->of[i]);
    UNROLL for (int s = 0; s < taps; s++) {
        if (s < 2) lanes[s] = NAMED(every)(part[0], part[1], s);
        else lanes[s] = NAMED(moved_on)(lanes[s % 2], part[2], s / 2, s % 2);
    }
}

/* The lines of a strip of gather: `at` is the column of x under tap 0 and lane 0. */
static inline __attribute__((always_inline)) void NAMED(gather_strip)(const int taps, const int step,
                                                                      const strips_sizes *z, const TYPE *x,
                                                                      const TYPE *w, TYPE init, int skip, index_t first,
                                                                      index_t lines, index_t column, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int depth = (taps + step - 1) / step, kept_taps = taps <= 3;
    const index_t at = column * step - z->left, left = z->out_width - column, kept = left < LANES ? left : LANES;
    const NAMED(strip_sets) sets = NAMED(sets_at)(taps, step, at, z->x_width, kept);
    const NAMED(vector) start = init - (NAMED(vector)){0};
    NAMED(strip_taps) tap;
    NAMED(vector) sum[MAX_STRIP_TAPS], lanes[MAX_STRIP_TAPS];
    UNROLL for (int r = 0; r < taps && kept_taps; r++) {
        UNROLL for (int s = 0; s < taps; s++) tap[r][s] = w[r * z->w_line + s * z->w_column] - (NAMED(vector)){0};
    }
    UNROLL for (int t = 0; t < depth; t++) sum[t] = start;
    index_t line = first * step - z->top;
    x += line * z->x_width + at;
    out += column;
    for (index_t j = 1 - depth; j < lines; j++) {
        UNROLL for (int u = 0; u < step; u++, line++, x += z->x_width) {
            const int outside = (size_t)line >= (size_t)z->x_lines;
            if (outside && skip) continue;
            NAMED(load_line)(taps, step, outside ? NAMED(no_pixels) : x, &sets, lanes);
            UNROLL for (int t = 0; t < depth; t++) {
                const int r = step * t + u;
                if (r >= taps) continue;
                UNROLL for (int s = 0; s < taps; s++) {
                    if (kept_taps) sum[depth - 1 - t] += lanes[s] * tap[r][s];
                    else sum[depth - 1 - t] += lanes[s] * w[r * z->w_line + s * z->w_column];
                }
            }
        }
        if (j >= 0) {
            if (kept == LANES) *(NAMED(vector) *)out = sum[0];
            else NAMED(store_lanes)(out, sum[0], kept);
            out += z->out_width;
        }
        UNROLL for (int t = 0; t < depth - 1; t++) sum[t] = sum[t + 1];
        sum[depth - 1] = start;
    }
}

/* The pairs of lines of a strip of scatter: lane n is the pair of columns 2*(column + n) - left, +1. */
static inline __attribute__((always_inline)) void NAMED(scatter_strip)(const int taps, const strips_sizes *z,
                                                                       const TYPE *x, const TYPE *w, TYPE init,
                                                                       int skip, index_t first, index_t lines,
                                                                       index_t column, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int depth = (taps + 1) / 2, kept_taps = taps <= 3;
    const index_t to = 2 * column - z->left;
    const index_t before = to < 0 ? -to : 0, inside = z->out_width - to;
    const int whole = to >= 0 && to + 2 * LANES <= z->out_width;
    const NAMED(vector) start = init - (NAMED(vector)){0};
    NAMED(set) sets[MAX_STRIP_TAPS];
    NAMED(strip_taps) tap;
    NAMED(vector) sum[MAX_STRIP_TAPS][2][2], lanes[MAX_STRIP_TAPS];
    UNROLL for (int b = 0; b < depth; b++) sets[b] = NAMED(set_of)(b - column, z->x_width + b - column);
    UNROLL for (int r = 0; r < taps && kept_taps; r++) {
        UNROLL for (int s = 0; s < taps; s++) tap[r][s] = w[r * z->w_line + s * z->w_column] - (NAMED(vector)){0};
    }
    UNROLL for (int t = 0; t < depth; t++) {
        UNROLL for (int k = 0; k < 4; k++) sum[t][k / 2][k % 2] = start;
    }
    index_t pair = (first + z->top) / 2, line = pair - (depth - 1);
    const index_t end = first + lines;
    x += line * z->x_width + column;
    for (; 2 * line - z->top < end; line++, x += z->x_width) {
        const int outside = (size_t)line >= (size_t)z->x_lines;
        if (!outside || !skip) {
            const TYPE *from = outside ? NAMED(no_pixels) + depth - 1 : x;
            UNROLL for (int b = 0; b < depth; b++) lanes[b] = NAMED(load_set)(from - b, sets[b]);
            UNROLL for (int r = 0; r < taps; r++) {
                UNROLL for (int s = 0; s < taps; s++) {
                    if (kept_taps) sum[r / 2][r % 2][s % 2] += lanes[s / 2] * tap[r][s];
                    else sum[r / 2][r % 2][s % 2] += lanes[s / 2] * w[r * z->w_line + s * z->w_column];
                }
            }
        }
        UNROLL for (int u = 0; u < 2; u++) {
            const index_t h = 2 * line + u - z->top;
            if (h < first || h >= end) continue;
            TYPE *const at = out + h * z->out_width + to;
            const NAMED(vector) one = NAMED(in_turn)(sum[0][u][0], sum[0][u][1], 0);
            const NAMED(vector) other = NAMED(in_turn)(sum[0][u][0], sum[0][u][1], LANES / 2);
            if (whole) {
                *(NAMED(vector) *)at = one;
                *(NAMED(vector) *)(at + LANES) = other;
            } else {
                NAMED(store_between)(at, one, before, inside < LANES ? inside : LANES);
                if (inside > LANES) NAMED(store_lanes)(at + LANES, other, inside - LANES);
            }
        }
        UNROLL for (int t = 0; t < depth; t++) {
            UNROLL for (int k = 0; k < 4; k++) {
                sum[t][k / 2][k % 2] = t < depth - 1 ? sum[t + 1][k / 2][k % 2] : start;
            }
        }
    }
}

/* A piece of a plane of the result. */
static inline __attribute__((always_inline)) void NAMED(plane_strips)(const int taps, const strips_sizes *z,
                                                                      const TYPE *x,
                                                                      const TYPE *w, TYPE init, int skip, index_t first,
                                                                      index_t lines, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    if (z->scatter) {
        const index_t pairs = (z->out_width + z->left + 1) / 2;
        for (index_t n = z->left / 2; n < pairs; n += LANES)
            NAMED(scatter_strip)(taps, z, x, w, init, skip, first, lines, n, out);
        return;
    }
    out += first * z->out_width;
    for (index_t q = 0; q < z->out_width; q += LANES) {
        if (z->step == 1) NAMED(gather_strip)(taps, 1, z, x, w, init, skip, first, lines, q, out);
        else NAMED(gather_strip)(taps, 2, z, x, w, init, skip, first, lines, q, out);
    }
}

/* Some lines of all planes of the result of some groups. */
static inline __attribute__((always_inline)) void NAMED(strip)(const int taps, const int vectors, const strips_sizes *z,
                                                               const TYPE *x, const TYPE *w, const TYPE *bias,
                                                               int skip, index_t first, index_t lines, index_t groups,
                                                               TYPE *out) {
    (void)vectors; /* one */
    w += z->w_first;
    for (index_t group = 0; group < groups; group++, x += z->x_channel) {
        for (index_t row = 0; row < z->rows; row++, w += taps * taps, out += z->out_channel) {
            NAMED(plane_strips)(taps, z, x, w, bias ? *bias++ : 0, skip, first, lines, out);
        }
    }
}

/* The sums of the lanes of `count` vectors, side by side. */
static inline __attribute__((always_inline)) void NAMED(store_totals)(const int count, const NAMED(vector) * sums,
                                                                      TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    UNROLL for (int first = 0; first < MAX_STRIP_TAPS * MAX_STRIP_TAPS; first += LANES) {
        if (first >= count) break;
        const int left = count - first < LANES ? count - first : LANES;
        NAMED(store_lanes)(out + first, NAMED(totals)(left, sums + first), left);
    }
}

/* Lines of taps of a plane of the weight: `high` of them from `first` on, over a strip of all lines of G. */
static inline __attribute__((always_inline)) void NAMED(weigh_strip)(const int taps, const int step, const int first,
                                                                     const int high, const strips_sizes *z,
                                                                     const TYPE *x, const TYPE *g, index_t column,
                                                                     NAMED(vector) sum[]) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int stay = high > step ? high - step : 0; /* lines of x that the next line of G meets again */
    const index_t at = column * step - z->left, left = z->out_width - column, kept = left < LANES ? left : LANES;
    const NAMED(strip_sets) sets = NAMED(sets_at)(taps, step, at, z->x_width, kept);
    const NAMED(set) whole = NAMED(set_of)(0, kept);
    NAMED(vector) lanes[MAX_STRIP_TAPS][MAX_STRIP_TAPS];
    index_t line = first - z->top;
    x += line * z->x_width + at;
    g += column;
    for (index_t p = 0; p < z->out_lines; p++, g += z->out_width) {
        UNROLL for (int r = 0; r < high; r++) {
            if (r < stay && p > 0) continue;
            const int outside = (size_t)line >= (size_t)z->x_lines;
            NAMED(load_line)(taps, step, outside ? NAMED(no_pixels) : x, &sets, lanes[r]);
            UNROLL for (int s = 0; s + 2 < taps; s++) {
                /* For a step of 2 an element past the lanes of this tap is in those of another. */
                if (step == 2) lanes[r][s] = NAMED(of_set)(lanes[r][s], whole);
            }
            line++, x += z->x_width;
        }
        const NAMED(vector) g_lanes = NAMED(load_set)(g, whole);
        UNROLL for (int r = 0; r < high; r++) {
            UNROLL for (int s = 0; s < taps; s++) sum[r * taps + s] += lanes[r][s] * g_lanes;
        }
        UNROLL for (int r = 0; r < stay; r++) {
            UNROLL for (int s = 0; s < taps; s++) lanes[r][s] = lanes[r + step][s];
        }
        if (high < step) line += step - high, x += (step - high) * z->x_width;
    }
}

/* A plane of the weight, as many lines of taps at a time as there are registers for. */
static inline __attribute__((always_inline)) void NAMED(weigh_plane)(const int taps, const int step,
                                                                     const strips_sizes *z, const TYPE *x,
                                                                     const TYPE *g, index_t images, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int at_once = VECTOR_REGISTERS / (2 * taps) < 1 ? 1 : VECTOR_REGISTERS / (2 * taps);
    UNROLL for (int first = 0; first < taps; first += at_once) {
        const int high = taps - first < at_once ? taps - first : at_once;
        NAMED(vector) sum[MAX_STRIP_TAPS * MAX_STRIP_TAPS];
        UNROLL for (int i = 0; i < high * taps; i++) sum[i] = (NAMED(vector)){0};
        for (index_t image = 0; image < images; image++) {
            for (index_t q = 0; q < z->out_width; q += LANES) {
                NAMED(weigh_strip)(taps, step, first, high, z, x + image * z->x_image, g + image * z->out_image, q, sum);
            }
        }
        NAMED(store_totals)(high * taps, sum, out + first * taps);
    }
}

/* The weight of some groups. */
static inline __attribute__((always_inline)) void NAMED(weigh)(const int taps, const int vectors, const strips_sizes *z,
                                                               const TYPE *x, const TYPE *g, index_t images,
                                                               index_t groups, TYPE *out) {
    (void)vectors; /* one */
    for (index_t group = 0; group < groups; group++, x += z->x_channel) {
        for (index_t row = 0; row < z->rows; row++, g += z->out_channel, out += taps * taps) {
            if (z->step == 1) NAMED(weigh_plane)(taps, 1, z, x, g, images, out);
            else NAMED(weigh_plane)(taps, 2, z, x, g, images, out);
        }
    }
}
