/* Transforms of Winograd's minimal correlation F(m, r), m results of r taps from n = m + r - 1 points, one axis at a
 * time.
 *
 *     out[i, g, v] = sum_a L[i][a] * in[a, g, v]        0 <= g < groups, 0 <= v < vectors*lanes
 *
 * L is one of the matrices below.  With y = A^T [(G w) . (B^T x)] for a tile of m results along an axis, and the same
 * along the other,
 *
 *     algorithm           L     from n   to   what
 *     winograd_points     B^T   n        n    lines of tiles to points
 *     winograd_pixels<r>  B^T   n        n    a line of pixels, dealt out to tiles, to points
 *     winograd_weight<r>  G     r        n    taps to points
 *     winograd_result<r>  A^T   n        m    points to results
 *     winograd_output<r>  A^T   n        m    points to a line of pixels: the results of tiles, side by side
 *
 * and what the lanes are is the caller's: tiles, channels or whole kernels that lie side by side.  Element a of group g
 * is in[in_offsets[a] + g*in_group + v], and likewise out; but pixels are a line, in which neighbouring tiles are m
 * columns apart: in[v*m + a], whose points are out[i*out_group + v]; and out[v*m + i] of points in[a*in_group +
 * v], `count` of them; `lines` lines, in_line and out_line apart.
 *
 * Some are of both axes at once, for square tiles of 3x3 kernels:
 *
 *     winograd_kernel     G     3    m+2  kernel                     points
 *     winograd_grad       A     m    m+2  tile of grad_out           points      (grad_weight is the transpose
 *     winograd_taps       G^T   m+2  3    points                     kernel       of forward in the weight)
 *
 * Points are 0, 1, -1, infinity, and where there are six also 1/2 and -2, which costs less accuracy than 2 and -2.  B^T
 * depends on the points alone, which is why kernels of several pieces and strides share the sums of one tile.
 *
 * Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", section 4.1; the points are of Barabasz,
 * Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
 * Networks", section 6.
 */
/* B^T. */
static inline __attribute__((always_inline)) void NAMED(points_of)(const int n, const NAMED(vector) * d,
                                                                   NAMED(vector) * p) {
    if (n == 1) p[0] = d[0];
    if (n == 4) p[0] = d[0] - d[2], p[1] = d[1] + d[2], p[2] = d[2] - d[1], p[3] = d[3] - d[1];
    if (n != 6) return;
    const NAMED(vector) v0 = d[2] - d[0], v1 = d[3] - d[1], v2 = d[4] - d[2], v3 = d[5] - d[3];
    const NAMED(vector) u0 = v0 + d[1] * (TYPE)1.5, u1 = v1 + d[2] * (TYPE)1.5;
    const NAMED(vector) u2 = v2 + d[3] * (TYPE)1.5, u3 = v3 + d[4] * (TYPE)1.5;
    p[0] = u2 - u0, p[1] = u2 + u1, p[2] = u2 - u1;
    p[3] = v2 + v1 * (TYPE)2, p[4] = v2 - v1 * (TYPE)0.5, p[5] = u3 - u1;
}

/* G. */
static inline __attribute__((always_inline)) void NAMED(weight_points)(const int n, const int r,
                                                                       const NAMED(vector) * g, NAMED(vector) * p) {
    NAMED(vector) even = g[0], odd = {0}, half = g[r - 1], two = g[r - 1];
    UNROLL for (int k = 2; k < r; k += 2) even += g[k];
    if (r > 1) odd = g[1];
    UNROLL for (int k = 3; k < r; k += 2) odd += g[k];
    p[0] = g[0], p[n - 1] = g[r - 1];
    if (n == 4) even *= (TYPE)0.5, odd *= (TYPE)0.5, p[1] = even + odd, p[2] = even - odd;
    if (n != 6) return;
    UNROLL for (int k = r - 2; k >= 0; k--) half = half * (TYPE)0.5 + g[k], two = g[k] - two * 2;
    even *= (TYPE)(1 / 3.), odd *= (TYPE)(1 / 3.);
    p[1] = odd + even, p[2] = odd - even, p[3] = half * (TYPE)(-16 / 15.), p[4] = two * (TYPE)(1 / 15.);
}

/* A^T. */
static inline __attribute__((always_inline)) void NAMED(results_of)(const int m, const int n, const NAMED(vector) * p,
                                                                    NAMED(vector) * y) {
    const TYPE halves[] = {1, (TYPE)0.5, (TYPE)0.25, (TYPE)0.125, (TYPE)0.0625}, twos[] = {1, -2, 4, -8, 16};
    y[0] = p[0];
    if (n == 1) return;
    const NAMED(vector) even = p[1] + p[2], odd = p[1] - p[2];
    UNROLL for (int i = 0; i < m; i++) {
        y[i] = i % 2 ? odd : even;
        if (i == 0) y[i] += p[0];
        if (n == 6) y[i] += p[3] * halves[i] + p[4] * twos[i];
        if (i == m - 1) y[i] += p[n - 1];
    }
}

typedef void NAMED(line_transform)(const NAMED(vector) * in, NAMED(vector) * out);

static inline __attribute__((always_inline)) void NAMED(grad_2)(const NAMED(vector) * y, NAMED(vector) * p) {
    p[0] = y[0], p[1] = y[0] + y[1], p[2] = y[0] - y[1], p[3] = y[1];
}

static inline __attribute__((always_inline)) void NAMED(taps_2)(const NAMED(vector) * p, NAMED(vector) * g) {
    const NAMED(vector) even = (p[1] + p[2]) * (TYPE)0.5;
    g[0] = p[0] + even, g[1] = (p[1] - p[2]) * (TYPE)0.5, g[2] = even + p[3];
}

static inline __attribute__((always_inline)) void NAMED(grad_4)(const NAMED(vector) * y, NAMED(vector) * p) {
    const NAMED(vector) even = y[0] + y[2], odd = y[1] + y[3];
    p[0] = y[0], p[1] = even + odd, p[2] = even - odd;
    p[3] = (y[0] + y[2] * (TYPE)0.25) + (y[1] + y[3] * (TYPE)0.25) * (TYPE)0.5;
    p[4] = (y[0] + y[2] * 4) - (y[1] + y[3] * 4) * 2, p[5] = y[3];
}

static inline __attribute__((always_inline)) void NAMED(taps_4)(const NAMED(vector) * p, NAMED(vector) * g) {
    const NAMED(vector) even = (p[1] - p[2]) * (TYPE)(1 / 3.), odd = (p[1] + p[2]) * (TYPE)(1 / 3.);
    const NAMED(vector) half = p[3] * (TYPE)(-4 / 15.), two = p[4] * (TYPE)(1 / 15.);
    g[0] = p[0] + even + (half * 4 + two), g[1] = odd + (half - two) * 2, g[2] = even + (half + two * 4) + p[5];
}

static inline __attribute__((always_inline)) void NAMED(kernel_2)(const NAMED(vector) * g, NAMED(vector) * p) {
    NAMED(weight_points)(4, 3, g, p);
}

static inline __attribute__((always_inline)) void NAMED(kernel_4)(const NAMED(vector) * g, NAMED(vector) * p) {
    NAMED(weight_points)(6, 3, g, p);
}

/* Deal m vectors of pixels out: lane t of to[b] is pixel t*m + b. */
static inline __attribute__((always_inline)) void NAMED(deal)(const int m, const TYPE *pixels, NAMED(vector) * to) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const NAMED(vector) *p = (const NAMED(vector) *)pixels;
    if (m == 1) to[0] = p[0];
    if (m == 2) to[0] = NAMED(every)(p[0], p[1], 0), to[1] = NAMED(every)(p[0], p[1], 1);
    if (m == 4) {
        const NAMED(vector) even_0 = NAMED(every)(p[0], p[1], 0), even_1 = NAMED(every)(p[2], p[3], 0);
        const NAMED(vector) odd_0 = NAMED(every)(p[0], p[1], 1), odd_1 = NAMED(every)(p[2], p[3], 1);
        to[0] = NAMED(every)(even_0, even_1, 0), to[1] = NAMED(every)(odd_0, odd_1, 0);
        to[2] = NAMED(every)(even_0, even_1, 1), to[3] = NAMED(every)(odd_0, odd_1, 1);
    }
    if (m % 2 == 0 || m == 1) return;
    UNROLL for (int b = 0; b < m; b++) {
        to[b] = NAMED(chosen)(p[0], p[1], m, b, 0);
        UNROLL for (int s = 2; s < m; s++) to[b] = NAMED(chosen)(to[b], p[s], m, b, s);
    }
}

/* The reverse of deal. */
static inline __attribute__((always_inline)) void NAMED(gather)(const int m, const NAMED(vector) * from,
                                                                NAMED(vector) * p) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE), HALF = LANES / 2 };
    if (m == 1) p[0] = from[0];
    if (m == 2) p[0] = NAMED(in_turn)(from[0], from[1], 0), p[1] = NAMED(in_turn)(from[0], from[1], HALF);
    if (m == 4) {
        const NAMED(vector) even_0 = NAMED(in_turn)(from[0], from[2], 0);
        const NAMED(vector) even_1 = NAMED(in_turn)(from[0], from[2], HALF);
        const NAMED(vector) odd_0 = NAMED(in_turn)(from[1], from[3], 0);
        const NAMED(vector) odd_1 = NAMED(in_turn)(from[1], from[3], HALF);
        p[0] = NAMED(in_turn)(even_0, odd_0, 0), p[1] = NAMED(in_turn)(even_0, odd_0, HALF);
        p[2] = NAMED(in_turn)(even_1, odd_1, 0), p[3] = NAMED(in_turn)(even_1, odd_1, HALF);
    }
    if (m % 2 == 0 || m == 1) return;
    UNROLL for (int k = 0; k < m; k++) {
        p[k] = NAMED(in_turns)(from[0], from[1], m, k, 0);
        UNROLL for (int s = 2; s < m; s++) p[k] = NAMED(in_turns)(p[k], from[s], m, k, s);
    }
}

static inline __attribute__((always_inline)) NAMED(vector) NAMED(not_finite)(NAMED(vector) value) {
    return value - value; /* 0, or NaN */
}

static inline __attribute__((always_inline)) void NAMED(report)(NAMED(vector) seen, const transform_loop *loop) {
    if (loop->seen) *(NAMED(vector) *)loop->seen += seen;
}

enum { NAMED(TO_POINTS), NAMED(FROM_TAPS), NAMED(TO_RESULTS) };

static inline __attribute__((always_inline)) void NAMED(along)(const int kind, const int m, const int r,
                                                               const transform_loop *loop, const TYPE *in, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int n = m + r - 1, from = kind == NAMED(FROM_TAPS) ? r : n, to = kind == NAMED(TO_RESULTS) ? m : n;
    NAMED(vector) seen = {0}, a[MAX_POINTS], b[MAX_POINTS];
    for (index_t v = 0; v < loop->vectors; v++) {
        for (index_t g = 0; g < loop->groups; g++) {
            const TYPE *source = in + g * loop->in_group + v * LANES;
            TYPE *target = out + g * loop->out_group + v * LANES;
            UNROLL for (int i = 0; i < from; i++) a[i] = *(const NAMED(vector) *)(source + loop->in_offsets[i]);
            if (kind == NAMED(TO_POINTS)) NAMED(points_of)(n, a, b);
            else if (kind == NAMED(FROM_TAPS)) NAMED(weight_points)(n, r, a, b);
            else NAMED(results_of)(m, n, a, b);
            UNROLL for (int i = 0; i < to; i++) {
                if (loop->count) NAMED(store_lanes)(target + loop->out_offsets[i], b[i], loop->count);
                else *(NAMED(vector) *)(target + loop->out_offsets[i]) = b[i];
                if (kind == NAMED(TO_RESULTS)) seen += NAMED(not_finite)(b[i]);
            }
        }
    }
    if (kind == NAMED(TO_RESULTS)) NAMED(report)(seen, loop);
}

static inline __attribute__((always_inline)) void NAMED(from_pixels)(const int m, const int r,
                                                                     const transform_loop *loop, const TYPE *in,
                                                                     TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int n = m + r - 1;
    for (index_t line = 0; line < loop->lines; line++, in += loop->in_line, out += loop->out_line) {
        for (index_t v = 0; v < loop->vectors; v++) {
            NAMED(vector) d[3 * MAX_POINTS], p[MAX_POINTS];
            UNROLL for (int i = 0; i < n; i += m) NAMED(deal)(m, in + v * LANES * m + i, d + i);
            NAMED(points_of)(n, d, p);
            UNROLL for (int i = 0; i < n; i++) *(NAMED(vector) *)(out + i * loop->out_group + v * LANES) = p[i];
        }
    }
}

static inline __attribute__((always_inline)) void NAMED(to_pixels)(const int m, const int r, const transform_loop *loop,
                                                                   const TYPE *in, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const int n = m + r - 1;
    NAMED(vector) seen = {0};
    for (index_t line = 0; line < loop->lines; line++, in += loop->in_line, out += loop->out_line) {
        const TYPE *from = in;
        for (index_t x = 0; x < loop->count; from += LANES) {
            NAMED(vector) p[MAX_POINTS], y[MAX_POINTS], pixels[MAX_POINTS];
            UNROLL for (int i = 0; i < n; i++) p[i] = *(const NAMED(vector) *)(from + i * loop->in_group);
            NAMED(results_of)(m, n, p, y);
            NAMED(gather)(m, y, pixels);
            UNROLL for (int k = 0; k < m; k++, x += LANES) {
                if (x + LANES <= loop->count) *(NAMED(vector) *)(out + x) = pixels[k];
                else if (x < loop->count) NAMED(store_lanes)(out + x, pixels[k], loop->count - x);
                seen += NAMED(not_finite)(pixels[k]); /* past the last pixel are those of other tiles */
            }
        }
    }
    NAMED(report)(seen, loop);
}

/* Both axes at once; `watch` that results which are not finite are reported. */
static inline __attribute__((always_inline)) void NAMED(transform)(NAMED(line_transform) * line, const int n,
                                                                   const int o, const int watch,
                                                                   const transform_loop *loop, const TYPE *in,
                                                                   TYPE *out) {
    NAMED(vector) seen = {0};
    for (index_t v = 0; v < loop->vectors; v++) {
        NAMED(vector) half[MAX_POINTS][MAX_POINTS], from[MAX_POINTS], to[MAX_POINTS];
    UNROLL for (int a = 0; a < n; a++) {
            UNROLL for (int b = 0; b < n; b++) {
                from[b] = ((const NAMED(vector) *)(in + loop->in_offsets[a * n + b]))[v];
            }
            line(from, to);
            UNROLL for (int j = 0; j < o; j++) half[j][a] = to[j];
        }
        UNROLL for (int j = 0; j < o; j++) {
            line(half[j], to);
            UNROLL for (int i = 0; i < o; i++) {
                ((NAMED(vector) *)(out + loop->out_offsets[i * o + j]))[v] = to[i];
                if (watch) seen += NAMED(not_finite)(to[i]);
            }
        }
    }
    if (watch) NAMED(report)(seen, loop);
}

#define TRANSFORM(kind, n, o, watch)                                                                                   \
    static inline __attribute__((always_inline)) void NAMED(winograd_##kind)(                                          \
        const int m, const int vectors, const transform_loop *loop, const TYPE *in, TYPE *out) {                       \
        (void)vectors; /* any number */                                                                                \
        if (m == 2) NAMED(transform)(NAMED(kind##_2), n, o, watch, loop, in, out);                                     \
        else NAMED(transform)(NAMED(kind##_4), n, o, watch, loop, in, out);                                            \
    }
TRANSFORM(kernel, 3, m + 2, 0)
TRANSFORM(grad, m, m + 2, 0)
TRANSFORM(taps, m + 2, 3, 1)
#undef TRANSFORM

#define WINOGRAD_KERNEL(name, call)                                                                                    \
    static inline __attribute__((always_inline)) void NAMED(name)(                                                     \
        const int m, const int vectors, const transform_loop *loop, const TYPE *in, TYPE *out) {                       \
        (void)vectors; /* any number */                                                                                \
        call;                                                                                                          \
    }
#define WINOGRAD_KERNELS(r)                                                                                            \
    WINOGRAD_KERNEL(winograd_pixels##r, NAMED(from_pixels)(m, r, loop, in, out))                                       \
    WINOGRAD_KERNEL(winograd_weight##r, NAMED(along)(NAMED(FROM_TAPS), m, r, loop, in, out))                           \
    WINOGRAD_KERNEL(winograd_result##r, NAMED(along)(NAMED(TO_RESULTS), m, r, loop, in, out))                          \
    WINOGRAD_KERNEL(winograd_output##r, NAMED(to_pixels)(m, r, loop, in, out))
WINOGRAD_KERNEL(winograd_points, NAMED(along)(NAMED(TO_POINTS), m, 1, loop, in, out)) /* as many as there are rows */
WINOGRAD_KERNELS(1)
WINOGRAD_KERNELS(2)
WINOGRAD_KERNELS(3)
WINOGRAD_KERNELS(4)
WINOGRAD_KERNELS(5)
#undef WINOGRAD_KERNELS
#undef WINOGRAD_KERNEL
