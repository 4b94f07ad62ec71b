/* Transforms of Winograd's minimal correlation F(m x m, 3 x 3), on blocks of vectors.
 *
 *     out[i, j, v] = sum_{a, b} L[i][a] * L[j][b] * in[a, b, v]        0 <= v < vectors*lanes
 *
 * L is one of five matrices, n columns by o rows.  With y = A^T [(G w G^T) . (B^T x B)] A for a tile of m x m results,
 *
 *     algorithm         L     n    o    block in                   block out
 *     winograd_input    B^T   m+2  m+2  tile of x, overlapping     points
 *     winograd_weight   G     3    m+2  kernel                     points
 *     winograd_output   A^T   m+2  m    points                     tile of results, side by side
 *     winograd_result   A^T   m+2  m    points                     tile of results
 *     winograd_grad     A     m    m+2  tile of grad_out           points      (grad_weight is the transpose
 *     winograd_taps     G^T   m+2  3    points                     kernel       of forward in the weight)
 *
 * and what the lanes are is the caller's: tiles, channels or whole kernels that lie side by side.  Element (a, b) of
 * lane v is in[in_off[a*n + b] + v], and likewise out; but the pixels of x and of results are lines, in which
 * neighbouring tiles are m columns apart: in[in_off[2*a + b/m] + v*m + b%m], the second line being the first moved on
 * by m, and out[out_off[a] + v*m + b].
 *
 * Blocking: n*o vectors between the two passes, through L1 where they exceed the registers.
 *
 * Points are 0, 1, -1, infinity, and for m = 4 also 1/2 and -2, which costs less accuracy than 2 and -2.
 *
 * Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", section 4.1; the points are of Barabasz,
 * Anderson, Soodhalter and Gregg, "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
 * Networks", section 6.
 */
typedef void NAMED(line_transform)(const NAMED(vector) * in, NAMED(vector) * out);

static inline __attribute__((always_inline)) void NAMED(input_2)(const NAMED(vector) * d, NAMED(vector) * p) {
    p[0] = d[0] - d[2], p[1] = d[1] + d[2], p[2] = d[2] - d[1], p[3] = d[3] - d[1];
}

static inline __attribute__((always_inline)) void NAMED(weight_2)(const NAMED(vector) * g, NAMED(vector) * p) {
    const NAMED(vector) even = (g[0] + g[2]) * (TYPE)0.5, odd = g[1] * (TYPE)0.5;
    p[0] = g[0], p[1] = even + odd, p[2] = even - odd, p[3] = g[2];
}

static inline __attribute__((always_inline)) void NAMED(output_2)(const NAMED(vector) * p, NAMED(vector) * y) {
    y[0] = p[0] + p[1] + p[2], y[1] = p[1] - p[2] + p[3];
}

static inline __attribute__((always_inline)) void NAMED(grad_2)(const NAMED(vector) * y, NAMED(vector) * p) {
    p[0] = y[0], p[1] = y[0] + y[1], p[2] = y[0] - y[1], p[3] = y[1];
}

static inline __attribute__((always_inline)) void NAMED(taps_2)(const NAMED(vector) * p, NAMED(vector) * g) {
    const NAMED(vector) even = (p[1] + p[2]) * (TYPE)0.5;
    g[0] = p[0] + even, g[1] = (p[1] - p[2]) * (TYPE)0.5, g[2] = even + p[3];
}

static inline __attribute__((always_inline)) void NAMED(input_4)(const NAMED(vector) * d, NAMED(vector) * p) {
    const NAMED(vector) v0 = d[2] - d[0], v1 = d[3] - d[1], v2 = d[4] - d[2], v3 = d[5] - d[3];
    const NAMED(vector) u0 = v0 + d[1] * (TYPE)1.5, u1 = v1 + d[2] * (TYPE)1.5;
    const NAMED(vector) u2 = v2 + d[3] * (TYPE)1.5, u3 = v3 + d[4] * (TYPE)1.5;
    p[0] = u2 - u0, p[1] = u2 + u1, p[2] = u2 - u1;
    p[3] = v2 + v1 * (TYPE)2, p[4] = v2 - v1 * (TYPE)0.5, p[5] = u3 - u1;
}

static inline __attribute__((always_inline)) void NAMED(weight_4)(const NAMED(vector) * g, NAMED(vector) * p) {
    const NAMED(vector) even = (g[0] + g[2]) * (TYPE)(1 / 3.), odd = g[1] * (TYPE)(1 / 3.);
    p[0] = g[0], p[1] = odd + even, p[2] = odd - even;
    p[3] = (g[0] * 4 + g[1] * 2 + g[2]) * (TYPE)(-4 / 15.);
    p[4] = (g[0] - g[1] * 2 + g[2] * 4) * (TYPE)(1 / 15.), p[5] = g[2];
}

static inline __attribute__((always_inline)) void NAMED(output_4)(const NAMED(vector) * p, NAMED(vector) * y) {
    const NAMED(vector) even = p[1] + p[2], odd = p[1] - p[2];
    y[0] = p[0] + even + (p[3] + p[4]);
    y[1] = odd + (p[3] * (TYPE)0.5 - p[4] * 2);
    y[2] = even + (p[3] * (TYPE)0.25 + p[4] * 4);
    y[3] = odd + (p[3] * (TYPE)0.125 - p[4] * 8) + p[5];
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

/* Deal m vectors of pixels out: lane t of to[b] is pixel t*m + b. */
static inline __attribute__((always_inline)) void NAMED(deal)(const int m, const TYPE *pixels, NAMED(vector) * to) {
    const NAMED(vector) *p = (const NAMED(vector) *)pixels;
    if (m == 2) {
        to[0] = NAMED(every)(p[0], p[1], 0), to[1] = NAMED(every)(p[0], p[1], 1);
        return;
    }
    const NAMED(vector) even_0 = NAMED(every)(p[0], p[1], 0), even_1 = NAMED(every)(p[2], p[3], 0);
    const NAMED(vector) odd_0 = NAMED(every)(p[0], p[1], 1), odd_1 = NAMED(every)(p[2], p[3], 1);
    to[0] = NAMED(every)(even_0, even_1, 0), to[1] = NAMED(every)(odd_0, odd_1, 0);
    to[2] = NAMED(every)(even_0, even_1, 1), to[3] = NAMED(every)(odd_0, odd_1, 1);
}

/* The reverse of deal. */
static inline __attribute__((always_inline)) void NAMED(gather)(const int m, const NAMED(vector) * from, TYPE *pixels) {
    enum { HALF = VECTOR_BYTES / sizeof(TYPE) / 2 };
    NAMED(vector) *p = (NAMED(vector) *)pixels;
    if (m == 2) {
        p[0] = NAMED(in_turn)(from[0], from[1], 0), p[1] = NAMED(in_turn)(from[0], from[1], HALF);
        return;
    }
    const NAMED(vector) even_0 = NAMED(in_turn)(from[0], from[2], 0), even_1 = NAMED(in_turn)(from[0], from[2], HALF);
    const NAMED(vector) odd_0 = NAMED(in_turn)(from[1], from[3], 0), odd_1 = NAMED(in_turn)(from[1], from[3], HALF);
    p[0] = NAMED(in_turn)(even_0, odd_0, 0), p[1] = NAMED(in_turn)(even_0, odd_0, HALF);
    p[2] = NAMED(in_turn)(even_1, odd_1, 0), p[3] = NAMED(in_turn)(even_1, odd_1, HALF);
}

/* `form` says which side is lines of pixels, `watch` that results which are not finite are reported. */
static inline __attribute__((always_inline)) void NAMED(transform)(NAMED(line_transform) * line, const int m,
                                                                   const int n, const int o, const int form,
                                                                   const int watch, const transform_loop *loop,
                                                                   const TYPE *in, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(vector) seen = {0}; /* 0, or NaN once there was one or an infinity */
    TYPE sum = 0;
    for (index_t v = 0; v < loop->vectors; v++) {
        NAMED(vector) half[MAX_POINTS][MAX_POINTS], from[2 * MAX_POINTS], to[MAX_POINTS];
    UNROLL for (int a = 0; a < n; a++) {
            if (form == PIXELS_IN) {
                NAMED(deal)(m, in + loop->in_offsets[2 * a] + v * LANES * m, from);
                NAMED(deal)(m, in + loop->in_offsets[2 * a + 1] + v * LANES * m, from + m);
            } else {
                UNROLL for (int b = 0; b < n; b++) {
                    from[b] = ((const NAMED(vector) *)(in + loop->in_offsets[a * n + b]))[v];
                }
            }
            line(from, to);
            UNROLL for (int j = 0; j < o; j++) half[j][a] = to[j];
        }
        NAMED(vector) all[MAX_POINTS][MAX_POINTS];
        UNROLL for (int j = 0; j < o; j++) {
            line(half[j], to);
            UNROLL for (int i = 0; i < o; i++) all[i][j] = to[i];
        }
        UNROLL for (int i = 0; i < o; i++) {
            if (form == PIXELS_OUT) NAMED(gather)(m, all[i], out + loop->out_offsets[i] + v * LANES * m);
            UNROLL for (int j = 0; j < o; j++) {
                if (form != PIXELS_OUT) ((NAMED(vector) *)(out + loop->out_offsets[i * o + j]))[v] = all[i][j];
                if (watch) seen += all[i][j] - all[i][j];
            }
        }
    }
    for (int lane = 0; watch && lane < LANES; lane++) sum += seen[lane];
    if (watch && sum != 0) *loop->not_finite = 1;
}

#define TRANSFORM(kind, line, n, o, form, watch)                                                                       \
    static inline __attribute__((always_inline)) void NAMED(winograd_##kind)(                                          \
        const int m, const int vectors, const transform_loop *loop, const TYPE *in, TYPE *out) {                       \
        (void)vectors; /* any number */                                                                                \
        if (m == 2) NAMED(transform)(NAMED(line##_2), m, n, o, form, watch, loop, in, out);                            \
        else NAMED(transform)(NAMED(line##_4), m, n, o, form, watch, loop, in, out);                                   \
    }
TRANSFORM(input, input, m + 2, m + 2, PIXELS_IN, 0)
TRANSFORM(weight, weight, 3, m + 2, PLAIN, 0)
TRANSFORM(output, output, m + 2, m, PIXELS_OUT, 1)
TRANSFORM(result, output, m + 2, m, PLAIN, 1)
TRANSFORM(grad, grad, m, m + 2, PLAIN, 0)
TRANSFORM(taps, taps, m + 2, 3, PLAIN, 1)
#undef TRANSFORM
