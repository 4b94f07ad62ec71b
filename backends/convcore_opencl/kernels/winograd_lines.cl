/*
 * Purpose
 *   The transforms of a line that Winograd's kernels share, and the formula that a result is computed by again when it
 *   is not finite; this file is put in front of each of them.
 *
 * Formula
 *   pixels_to_points B^T d, taps_to_points G w, points_to_results A^T p, and for grad_weight their transposes
 *   results_to_points A y, points_to_taps G^T p; for both axes one after the other by TRANSFORM().
 *
 * Source
 *   Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4; for TILE = 4 with the
 *   points 0, 1, -1, 1/2, -2, which err less than 0, 1, -1, 2, -2.
 */

#define N (TILE + 2)
#define POINTS (N * N)

typedef struct {
    vector at[N];
} line;

#if TILE == 2
line pixels_to_points(line d) {
    return (line){{d.at[0] - d.at[2], d.at[1] + d.at[2], d.at[2] - d.at[1], d.at[3] - d.at[1]}};
}
line taps_to_points(line w) {
    const vector even = (w.at[0] + w.at[2]) * (RESULT)0.5, odd = w.at[1] * (RESULT)0.5;
    return (line){{w.at[0], even + odd, even - odd, w.at[2]}};
}
line points_to_results(line p) { return (line){{p.at[0] + p.at[1] + p.at[2], p.at[1] - p.at[2] + p.at[3]}}; }
line results_to_points(line y) { return (line){{y.at[0], y.at[0] + y.at[1], y.at[0] - y.at[1], y.at[1]}}; }
line points_to_taps(line p) {
    const vector even = (p.at[1] + p.at[2]) * (RESULT)0.5;
    return (line){{p.at[0] + even, (p.at[1] - p.at[2]) * (RESULT)0.5, even + p.at[3]}};
}
#else
line pixels_to_points(line d) {
    const vector v0 = d.at[2] - d.at[0], v1 = d.at[3] - d.at[1], v2 = d.at[4] - d.at[2], v3 = d.at[5] - d.at[3];
    const vector u0 = v0 + d.at[1] * (RESULT)1.5, u1 = v1 + d.at[2] * (RESULT)1.5;
    const vector u2 = v2 + d.at[3] * (RESULT)1.5, u3 = v3 + d.at[4] * (RESULT)1.5;
    return (line){{u2 - u0, u2 + u1, u2 - u1, v2 + v1 * (RESULT)2, v2 - v1 * (RESULT)0.5, u3 - u1}};
}
line taps_to_points(line w) {
    const vector even = (w.at[0] + w.at[2]) * (RESULT)(1 / 3.), odd = w.at[1] * (RESULT)(1 / 3.);
    const vector half_point = (w.at[0] * (RESULT)4 + w.at[1] * (RESULT)2 + w.at[2]) * (RESULT)(-4 / 15.);
    const vector two_point = (w.at[0] - w.at[1] * (RESULT)2 + w.at[2] * (RESULT)4) * (RESULT)(1 / 15.);
    return (line){{w.at[0], odd + even, odd - even, half_point, two_point, w.at[2]}};
}
line points_to_results(line p) {
    const vector even = p.at[1] + p.at[2], odd = p.at[1] - p.at[2];
    return (line){{p.at[0] + even + (p.at[3] + p.at[4]), odd + (p.at[3] * (RESULT)0.5 - p.at[4] * (RESULT)2),
                   even + (p.at[3] * (RESULT)0.25 + p.at[4] * (RESULT)4),
                   odd + (p.at[3] * (RESULT)0.125 - p.at[4] * (RESULT)8) + p.at[5]}};
}
line results_to_points(line y) {
    const vector even = y.at[0] + y.at[2], odd = y.at[1] + y.at[3];
    const vector half_even = y.at[0] + y.at[2] * (RESULT)0.25, half_odd = y.at[1] + y.at[3] * (RESULT)0.25;
    const vector two_even = y.at[0] + y.at[2] * (RESULT)4, two_odd = y.at[1] + y.at[3] * (RESULT)4;
    return (line){
        {y.at[0], even + odd, even - odd, half_even + half_odd * (RESULT)0.5, two_even - two_odd * (RESULT)2, y.at[3]}};
}
line points_to_taps(line p) {
    const vector even = (p.at[1] - p.at[2]) * (RESULT)(1 / 3.), odd = (p.at[1] + p.at[2]) * (RESULT)(1 / 3.);
    const vector half_point = p.at[3] * (RESULT)(-4 / 15.), two_point = p.at[4] * (RESULT)(1 / 15.);
    return (line){{p.at[0] + even + (half_point * (RESULT)4 + two_point), odd + (half_point - two_point) * (RESULT)2,
                   even + (half_point + two_point * (RESULT)4) + p.at[5]}};
}
#endif

/* Transform a square of `from` x `from` vectors, N apart, along its rows and then its columns; `to` x `to` are left. */
#define TRANSFORM(square, transform, from, to)                                                                         \
    do {                                                                                                               \
        _Pragma("unroll") for (int a = 0; a < (from); ++a) {                                                           \
            line l;                                                                                                    \
            _Pragma("unroll") for (int b = 0; b < (from); ++b) l.at[b] = square[a * N + b];                            \
            l = transform(l);                                                                                          \
            _Pragma("unroll") for (int b = 0; b < (to); ++b) square[a * N + b] = l.at[b];                              \
        }                                                                                                              \
        _Pragma("unroll") for (int b = 0; b < (to); ++b) {                                                             \
            line l;                                                                                                    \
            _Pragma("unroll") for (int a = 0; a < (from); ++a) l.at[a] = square[a * N + b];                            \
            l = transform(l);                                                                                          \
            _Pragma("unroll") for (int a = 0; a < (to); ++a) square[a * N + b] = l.at[a];                              \
        }                                                                                                              \
    } while (0)

/* A result as the formula has it; what is outside is the fill value, or in grad_input does not exist. */
RESULT looked_up(global const RESULT *in, global const RESULT *weight, int channels, int2 image, int top, int left,
                 long term_step, RESULT fill) {
    RESULT sum = 0;
    for (int c = 0; c < channels; ++c)
        for (int tap = 0; tap < 9; ++tap) {
            const int h = source(top + tap / 3, image.x), w = source(left + tap % 3, image.y);
            const bool outside = h < 0 || w < 0;
            if (REVERSED && outside) continue;
            const RESULT pixel =
                outside ? fill : in[c * PLANE(image) + ((long)h * image.y + w) * COLUMN_STEP(channels)];
            sum += pixel * weight[c * term_step + (REVERSED ? 8 - tap : tap)];
        }
    return sum;
}
