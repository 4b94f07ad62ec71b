/* Transforms of Winograd's minimal correlation F(m x m, 3 x 3), on blocks of vectors.
 *
 *     out[out_off[i*o + j] + v] = sum_{a, b} L[i][a] * L[j][b] * in[in_off[a*n + b] + v]        0 <= v < vectors*lanes
 *
 * L is one of five matrices, n columns by o rows.  With y = A^T [(G w G^T) . (B^T x B)] A for a tile of m x m results,
 *
 *     algorithm         L     n    o    block in                   block out
 *     winograd_input    B^T   m+2  m+2  tile of x, overlapping     points
 *     winograd_weight   G     3    m+2  kernel                     points
 *     winograd_output   A^T   m+2  m    points                     tile of results
 *     winograd_grad     A     m    m+2  tile of grad_out           points      (grad_weight is the transpose
 *     winograd_taps     G^T   m+2  3    points                     kernel       of forward in the weight)
 *
 * and what the lanes are is the caller's: tiles, channels or whole kernels that lie side by side.
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

/* With `watch`, a value that is not finite is reported. */
static inline __attribute__((always_inline)) void NAMED(transform)(NAMED(line_transform) * line, const int n,
                                                                   const int o, const int watch,
                                                                   const transform_loop *loop, const TYPE *in,
                                                                   TYPE *out) {
    NAMED(vector) seen = {0}; /* 0, or NaN once there was one or an infinity */
    TYPE sum = 0;
    for (index_t v = 0; v < loop->vectors; v++) {
        NAMED(vector) half[MAX_POINTS][MAX_POINTS], from[MAX_POINTS], to[MAX_POINTS];
    UNROLL for (int b = 0; b < n; b++) {
            UNROLL for (int a = 0; a < n; a++) from[a] = ((const NAMED(vector) *)(in + loop->in_offsets[a * n + b]))[v];
            line(from, to);
            UNROLL for (int i = 0; i < o; i++) half[i][b] = to[i];
        }
        UNROLL for (int i = 0; i < o; i++) {
            line(half[i], to);
            UNROLL for (int j = 0; j < o; j++) {
                ((NAMED(vector) *)(out + loop->out_offsets[i * o + j]))[v] = to[j];
                if (watch) seen += to[j] - to[j];
            }
        }
    }
    for (int lane = 0; watch && lane < (int)(VECTOR_BYTES / sizeof(TYPE)); lane++) sum += seen[lane];
    if (watch && sum != 0) *loop->not_finite = 1;
}

#define TRANSFORM(kind, n, o, watch)                                                                                   \
    static inline __attribute__((always_inline)) void NAMED(winograd_##kind)(                                          \
        const int m, const int vectors, const transform_loop *loop, const TYPE *in, TYPE *out) {                       \
        (void)vectors; /* any number */                                                                                \
        if (m == 2) NAMED(transform)(NAMED(kind##_2), n, o, watch, loop, in, out);                                     \
        else NAMED(transform)(NAMED(kind##_4), n, o, watch, loop, in, out);                                            \
    }
TRANSFORM(input, m + 2, m + 2, 0)
TRANSFORM(weight, 3, m + 2, 0)
TRANSFORM(output, m + 2, m, 1)
TRANSFORM(grad, m, m + 2, 0)
TRANSFORM(taps, m + 2, 3, 1)
#undef TRANSFORM
