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
 * Lines of half a vector or less: two planes go side by side, each in its half; `planes` in a vector, 2 or 1.
 *
 * Lines outside x are zeros like any other, or, if `skip`, are left out.
 *
 * The caller guarantees that an infinite weight that meets zeros which the formula does not have is noticed (strips.h).
 */
static const TYPE NAMED(no_pixels)[3 * VECTOR_BYTES / sizeof(TYPE) + MAX_STRIP_TAPS];

typedef NAMED(vector) NAMED(strip_taps)[MAX_STRIP_TAPS][MAX_STRIP_TAPS];

/* The first operand, the taps and the result of a plane, and how much further on those of the plane beside it are. */
typedef struct {
    const TYPE *x, *w;
    TYPE init, init_beside, *out;
    index_t x_beside, w_beside, out_beside;
} NAMED(strip_plane);

/* A number for all lanes of a plane. */
static inline __attribute__((always_inline)) NAMED(vector) NAMED(for_planes)(const int planes, TYPE one, TYPE beside) {
    const NAMED(vector) low = one - (NAMED(vector)){0}, high = beside - (NAMED(vector)){0};
    return planes == 1 ? low : NAMED(halves)(low, high);
}

static inline __attribute__((always_inline)) NAMED(vector)
    NAMED(load_planes)(const int planes, const TYPE *from, index_t beside, NAMED(set) set) {
    return planes == 1 ? NAMED(load_set)(from, set) : NAMED(load_halves)(from, from + beside, set);
}

static inline __attribute__((always_inline)) void NAMED(load_taps)(const int planes, const int taps,
                                                                   const strips_sizes *z, const TYPE *w, index_t beside,
                                                                   NAMED(strip_taps) tap) {
    UNROLL for (int r = 0; r < taps; r++) {
        UNROLL for (int s = 0; s < taps; s++) {
            const TYPE *const at = w + r * z->w_line + s * z->w_column;
            tap[r][s] = NAMED(for_planes)(planes, *at, planes == 1 ? 0 : at[beside]);
        }
    }
}

/* The sets of lanes in which the vectors loaded of a line are inside it: for a step of 1 one vector for each tap, for a
 * step of 2 three side by side, or of two planes one for each pair of taps. */
typedef struct {
    NAMED(set) of[MAX_STRIP_TAPS];
} NAMED(strip_sets);

/* Where element 0 is column `at` of `width`, and lanes from `kept` on are dropped. */
static inline __attribute__((always_inline)) NAMED(strip_sets)
    NAMED(sets_at)(const int planes, const int taps, const int step, index_t at, index_t width, index_t kept) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(strip_sets) sets;
    if (step == 1 || planes == 2) {
    UNROLL for (int s = 0; s < taps; s += step) {
            const index_t inside = width - at - s, wanted = step * kept;
            sets.of[s / step] = NAMED(set_of)(-at - s, inside < wanted ? inside : wanted);
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
static inline __attribute__((always_inline)) void NAMED(load_line)(const int planes, const int taps, const int step,
                                                                   const TYPE *from, index_t beside,
                                                                   const NAMED(strip_sets) * sets,
                                                                   NAMED(vector) * lanes) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    if (step == 1) {
        UNROLL for (int s = 0; s < taps; s++) lanes[s] = NAMED(load_planes)(planes, from + s, beside, sets->of[s]);
        return;
    }
    if (planes == 2) {
        UNROLL for (int s = 0; s < taps; s += 2) {
            const NAMED(vector) one = NAMED(load_set)(from + s, sets->of[s / 2]);
            const NAMED(vector) other = NAMED(load_set)(from + s + beside, sets->of[s / 2]);
            lanes[s] = NAMED(every)(one, other, 0);
            if (s + 1 < taps) lanes[s + 1] = NAMED(every)(one, other, 1);
        }
        return;
    }
    NAMED(vector) part[3];
    UNROLL for (int i = 0; i < 3; i++) part[i] = NAMED(load_set)(from + i * LANES, sets->of[i]);
    UNROLL for (int s = 0; s < taps; s++) {
        if (s < 2) lanes[s] = NAMED(every)(part[0], part[1], s);
        else lanes[s] = NAMED(moved_on)(lanes[s % 2], part[2], s / 2, s % 2);
    }
}

/* The lines of a strip of gather: `column` of the result is in lane 0. */
static inline __attribute__((always_inline)) void NAMED(gather_strip)(const int planes, const int taps, const int step,
                                                                      const strips_sizes *z,
                                                                      const NAMED(strip_plane) * plane, int skip,
                                                                      index_t first, index_t lines, index_t column) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int depth = (taps + step - 1) / step, kept_taps = taps <= 3 || planes == 2;
    const index_t x_width = z->x_width, x_lines = z->x_lines, out_width = z->out_width;
    const index_t x_beside = plane->x_beside, out_beside = plane->out_beside;
    const index_t at = column * step - z->left, left = out_width - column, kept = left < LANES ? left : LANES;
    const NAMED(strip_sets) sets = NAMED(sets_at)(planes, taps, step, at, x_width, kept);
    const NAMED(part) part = NAMED(part_of)(0, kept), other_part = NAMED(part_of)(LANES / 2, LANES / 2 + kept);
    const NAMED(vector) start = NAMED(for_planes)(planes, plane->init, plane->init_beside);
    const TYPE *const w = plane->w;
    NAMED(strip_taps) tap;
    NAMED(vector) sum[MAX_STRIP_TAPS], lanes[MAX_STRIP_TAPS];
    if (kept_taps) NAMED(load_taps)(planes, taps, z, w, plane->w_beside, tap);
    UNROLL for (int t = 0; t < depth; t++) sum[t] = start;
    index_t line = first * step - z->top;
    const TYPE *x = plane->x + line * x_width + at;
    TYPE *out = plane->out + first * out_width + column;
    for (index_t j = 1 - depth; j < lines; j++) {
        UNROLL for (int u = 0; u < step; u++, line++, x += x_width) {
            const int outside = (size_t)line >= (size_t)x_lines;
            if (outside && skip) continue;
            NAMED(load_line)(planes, taps, step, outside ? NAMED(no_pixels) : x, outside ? 0 : x_beside, &sets, lanes);
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
            else NAMED(store_part)(out, sum[0], part);
            if (planes == 2) NAMED(store_part)(out + out_beside - LANES / 2, sum[0], other_part);
            out += out_width;
        }
        UNROLL for (int t = 0; t < depth - 1; t++) sum[t] = sum[t + 1];
        sum[depth - 1] = start;
    }
}

/* The pairs of lines of a strip of scatter: lane n is the pair of columns 2*(column + n) - left, +1. */
static inline __attribute__((always_inline)) void NAMED(scatter_strip)(const int planes, const int taps,
                                                                       const strips_sizes *z,
                                                                       const NAMED(strip_plane) * plane, int skip,
                                                                       index_t first, index_t lines, index_t column) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int depth = (taps + 1) / 2, kept_taps = taps <= 3 || planes == 2;
    const index_t x_width = z->x_width, x_lines = z->x_lines, out_width = z->out_width, top = z->top;
    const index_t x_beside = plane->x_beside, out_beside = plane->out_beside;
    const index_t to = 2 * column - z->left, pairs = LANES / planes, inside = out_width - to;
    const int whole = planes == 1 && to >= 0 && to + 2 * LANES <= out_width;
    const NAMED(part) part = NAMED(part_of)(-to, inside), next_part = NAMED(part_of)(0, inside - LANES);
    const NAMED(vector) start = NAMED(for_planes)(planes, plane->init, plane->init_beside);
    const TYPE *const w = plane->w;
    NAMED(set) sets[MAX_STRIP_TAPS];
    NAMED(strip_taps) tap;
    NAMED(vector) sum[MAX_STRIP_TAPS][2][2], lanes[MAX_STRIP_TAPS];
    UNROLL for (int b = 0; b < depth; b++) {
        const index_t end = x_width + b - column;
        sets[b] = NAMED(set_of)(b - column, end < pairs ? end : pairs);
    }
    if (kept_taps) NAMED(load_taps)(planes, taps, z, w, plane->w_beside, tap);
    UNROLL for (int t = 0; t < depth; t++) {
        UNROLL for (int k = 0; k < 4; k++) sum[t][k / 2][k % 2] = start;
    }
    index_t pair = (first + top) / 2, line = pair - (depth - 1);
    const index_t end = first + lines;
    const TYPE *x = plane->x + line * x_width + column;
    for (; 2 * line - top < end; line++, x += x_width) {
        const int outside = (size_t)line >= (size_t)x_lines;
        if (!outside || !skip) {
            const TYPE *from = outside ? NAMED(no_pixels) + depth - 1 : x;
            const index_t beside = outside ? 0 : x_beside;
            UNROLL for (int b = 0; b < depth; b++) lanes[b] = NAMED(load_planes)(planes, from - b, beside, sets[b]);
            UNROLL for (int r = 0; r < taps; r++) {
                UNROLL for (int s = 0; s < taps; s++) {
                    if (kept_taps) sum[r / 2][r % 2][s % 2] += lanes[s / 2] * tap[r][s];
                    else sum[r / 2][r % 2][s % 2] += lanes[s / 2] * w[r * z->w_line + s * z->w_column];
                }
            }
        }
        UNROLL for (int u = 0; u < 2; u++) {
            const index_t h = 2 * line + u - top;
            if (h < first || h >= end) continue;
            TYPE *const at = plane->out + h * out_width + to;
            const NAMED(vector) one = NAMED(in_turn)(sum[0][u][0], sum[0][u][1], 0);
            const NAMED(vector) other = NAMED(in_turn)(sum[0][u][0], sum[0][u][1], LANES / 2);
            if (whole) {
                *(NAMED(vector) *)at = one;
                *(NAMED(vector) *)(at + LANES) = other;
                continue;
            }
            NAMED(store_part)(at, one, part);
            if (planes == 2) NAMED(store_part)(at + out_beside, other, part);
            else if (inside > LANES) NAMED(store_part)(at + LANES, other, next_part);
        }
        UNROLL for (int t = 0; t < depth; t++) {
            UNROLL for (int k = 0; k < 4; k++) {
                sum[t][k / 2][k % 2] = t < depth - 1 ? sum[t + 1][k / 2][k % 2] : start;
            }
        }
    }
}

/* A piece of a plane of the result, or of two side by side. */
static inline __attribute__((always_inline)) void NAMED(plane_strips)(const int planes, const int taps,
                                                                      const strips_sizes *z,
                                                                      const NAMED(strip_plane) * plane, int skip,
                                                                      index_t first, index_t lines) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    if (z->scatter) {
        const index_t pairs = (z->out_width + z->left + 1) / 2;
        for (index_t n = z->left / 2; n < pairs; n += LANES)
            NAMED(scatter_strip)(planes, taps, z, plane, skip, first, lines, n);
        return;
    }
    for (index_t q = 0; q < z->out_width; q += LANES) {
        if (z->step == 1) NAMED(gather_strip)(planes, taps, 1, z, plane, skip, first, lines, q);
        else NAMED(gather_strip)(planes, taps, 2, z, plane, skip, first, lines, q);
    }
}

/* Some lines of the planes of the result of a group, or of two side by side. */
static inline __attribute__((always_inline)) void NAMED(group_strips)(const int planes, const int taps,
                                                                      const strips_sizes *z, const TYPE *x,
                                                                      const TYPE *w, const TYPE *bias, int skip,
                                                                      index_t first, index_t lines, TYPE *out) {
    const index_t rows = z->rows;
    for (index_t row = 0; row < rows; row++) {
        const NAMED(strip_plane) plane = {
            .x = x,
            .w = w + row * taps * taps,
            .init = bias ? bias[row] : 0,
            .init_beside = bias && planes == 2 ? bias[rows + row] : 0,
            .out = out + row * z->out_channel,
            .x_beside = z->x_channel,
            .w_beside = rows * taps * taps,
            .out_beside = rows * z->out_channel,
        };
        NAMED(plane_strips)(planes, taps, z, &plane, skip, first, lines);
    }
}

/* Some lines of all planes of the result of some groups. */
static inline __attribute__((always_inline)) void NAMED(strip)(const int taps, const int vectors, const strips_sizes *z,
                                                               const TYPE *x, const TYPE *w, const TYPE *bias,
                                                               int skip, index_t first, index_t lines, index_t groups,
                                                               TYPE *out) {
    (void)vectors; /* one */
    w += z->w_first;
    for (index_t group = 0, planes; group < groups; group += planes) {
        const index_t row = group * z->rows;
        planes = group + 1 < groups ? z->planes : 1;
        const TYPE *const x_at = x + group * z->x_channel, *const w_at = w + row * taps * taps;
        const TYPE *const bias_at = bias ? bias + row : NULL;
        TYPE *const to = out + row * z->out_channel;
        if (planes == 2) NAMED(group_strips)(2, taps, z, x_at, w_at, bias_at, skip, first, lines, to);
        else NAMED(group_strips)(1, taps, z, x_at, w_at, bias_at, skip, first, lines, to);
    }
}

/* The sums of the lanes of `count` vectors, side by side; of each plane those of its own lanes. */
static inline __attribute__((always_inline)) void NAMED(store_totals)(const int planes, const int count,
                                                                      const NAMED(vector) * sums, index_t beside,
                                                                      TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    UNROLL for (int plane = 0; plane < planes; plane++, out += beside) {
        const NAMED(set) own = NAMED(set_of)(plane * LANES / planes, (plane + 1) * LANES / planes);
        UNROLL for (int first = 0; first < MAX_STRIP_TAPS * MAX_STRIP_TAPS; first += LANES) {
            if (first >= count) break;
            const int left = count - first < LANES ? count - first : LANES;
            NAMED(vector) lanes[LANES];
            UNROLL for (int i = 0; i < left; i++) {
                lanes[i] = planes == 1 ? sums[first + i] : NAMED(of_set)(sums[first + i], own);
            }
            NAMED(store_lanes)(out + first, NAMED(totals)(left, lanes), left);
        }
    }
}

/* Lines of taps of a plane of the weight, or of two: `high` of them from `first` on, over a strip of all lines of G. */
static inline __attribute__((always_inline)) void NAMED(weigh_strip)(const int planes, const int taps, const int step,
                                                                     const int first, const int high,
                                                                     const strips_sizes *z,
                                                                     const TYPE *x, const TYPE *g, index_t column,
                                                                     NAMED(vector) sum[]) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int stay = high > step ? high - step : 0; /* lines of x that the next line of G meets again */
    const index_t x_width = z->x_width, x_lines = z->x_lines, out_width = z->out_width, out_lines = z->out_lines;
    const index_t at = column * step - z->left, left = out_width - column, kept = left < LANES ? left : LANES;
    const index_t x_beside = z->x_channel, g_beside = z->rows * z->out_channel;
    const NAMED(strip_sets) sets = NAMED(sets_at)(planes, taps, step, at, x_width, kept);
    const NAMED(set) whole = NAMED(set_of)(0, kept);
    NAMED(vector) lanes[MAX_STRIP_TAPS][MAX_STRIP_TAPS];
    index_t line = first - z->top;
    x += line * x_width + at;
    g += column;
    for (index_t p = 0; p < out_lines; p++, g += out_width) {
        UNROLL for (int r = 0; r < high; r++) {
            if (r < stay && p > 0) continue;
            const int outside = (size_t)line >= (size_t)x_lines;
            NAMED(load_line)(planes, taps, step, outside ? NAMED(no_pixels) : x, outside ? 0 : x_beside, &sets,
                             lanes[r]);
            UNROLL for (int s = 0; s + 2 < taps; s++) {
                /* For a step of 2 an element past the lanes of this tap is in those of another. */
                if (step == 2 && planes == 1) lanes[r][s] = NAMED(of_set)(lanes[r][s], whole);
            }
            line++, x += x_width;
        }
        const NAMED(vector) g_lanes = NAMED(load_planes)(planes, g, g_beside, whole);
        UNROLL for (int r = 0; r < high; r++) {
            UNROLL for (int s = 0; s < taps; s++) sum[r * taps + s] += lanes[r][s] * g_lanes;
        }
        UNROLL for (int r = 0; r < stay; r++) {
            UNROLL for (int s = 0; s < taps; s++) lanes[r][s] = lanes[r + step][s];
        }
        if (high < step) line += step - high, x += (step - high) * x_width;
    }
}

/* A plane of the weight, or two, as many lines of taps at a time as there are registers for. */
static inline __attribute__((always_inline)) void NAMED(weigh_plane)(const int planes, const int taps, const int step,
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
                NAMED(weigh_strip)(planes, taps, step, first, high, z, x + image * z->x_image, g + image * z->out_image,
                                   q, sum);
            }
        }
        NAMED(store_totals)(planes, high * taps, sum, z->rows * taps * taps, out + first * taps);
    }
}

/* The weight of some groups. */
static inline __attribute__((always_inline)) void NAMED(weigh)(const int taps, const int vectors, const strips_sizes *z,
                                                               const TYPE *x, const TYPE *g, index_t images,
                                                               index_t groups, TYPE *out) {
    (void)vectors; /* one */
    for (index_t group = 0, planes; group < groups; group += planes, x += planes * z->x_channel) {
        planes = group + 1 < groups ? z->planes : 1;
        for (index_t row = group * z->rows; row < (group + 1) * z->rows; row++) {
            const TYPE *const g_row = g + row * z->out_channel;
            TYPE *const to = out + row * taps * taps;
            if (planes == 2 && z->step == 1) NAMED(weigh_plane)(2, taps, 1, z, x, g_row, images, to);
            else if (planes == 2) NAMED(weigh_plane)(2, taps, 2, z, x, g_row, images, to);
            else if (z->step == 1) NAMED(weigh_plane)(1, taps, 1, z, x, g_row, images, to);
            else NAMED(weigh_plane)(1, taps, 2, z, x, g_row, images, to);
        }
    }
}
