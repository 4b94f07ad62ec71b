/* The table of micro-kernels: one row declares, selects, tests and times one function.
 *
 *     ROW(dtype, algorithm, rows, columns)
 *
 * The tile is rows x columns elements.  Columns are lanes: a whole number of vectors.  What bounds a tile is the
 * register file: rows*columns/lanes accumulators, columns/lanes vectors of B and one broadcast must fit in it (16
 * vectors with AVX2 and SSE, 32 with AVX-512 and NEON).  Tall tiles reuse each vector of B more often; wide ones
 * hide the latency of the multiply-add where a problem has few rows; narrow ones waste less on small images.
 */
#ifndef CONVCORE_TABLE_H
#define CONVCORE_TABLE_H

/* clang-format off */

/* Rows are here the results of a tile along an axis, of points their number, and a column is a lane of the one vector
 * transformed at a time.
 */
#define WINOGRAD_FORM(ROW, dtype, m, r, lanes) \
    ROW(dtype, winograd_pixels##r, m, lanes) \
    ROW(dtype, winograd_weight##r, m, lanes) \
    ROW(dtype, winograd_result##r, m, lanes) \
    ROW(dtype, winograd_output##r, m, lanes)
#define WINOGRAD(ROW, dtype, lanes) \
    ROW(dtype, turn, 1, lanes) \
    ROW(dtype, winograd_points, 1, lanes) \
    ROW(dtype, winograd_points, 4, lanes) \
    ROW(dtype, winograd_points, 6, lanes) \
    WINOGRAD_FORM(ROW, dtype, 1, 1, lanes) \
    WINOGRAD_FORM(ROW, dtype, 2, 3, lanes) \
    WINOGRAD_FORM(ROW, dtype, 3, 2, lanes) \
    WINOGRAD_FORM(ROW, dtype, 4, 3, lanes) \
    WINOGRAD_FORM(ROW, dtype, 3, 4, lanes) \
    WINOGRAD_FORM(ROW, dtype, 5, 2, lanes) \
    WINOGRAD_FORM(ROW, dtype, 2, 5, lanes) \
    ROW(dtype, winograd_kernel, 2, lanes) \
    ROW(dtype, winograd_kernel, 4, lanes) \
    ROW(dtype, winograd_grad, 2, lanes) \
    ROW(dtype, winograd_grad, 4, lanes) \
    ROW(dtype, winograd_taps, 2, lanes) \
    ROW(dtype, winograd_taps, 4, lanes)

#define MICRO_KERNELS_avx512(ROW) \
    ROW(f32, panel, 14, 32) \
    ROW(f32, panel, 12, 32) \
    ROW(f32, panel, 8, 48) \
    ROW(f32, panel, 6, 64) \
    ROW(f32, panel, 8, 32) \
    ROW(f32, panel, 4, 64) \
    ROW(f32, panel, 14, 16) \
    ROW(f32, panel, 8, 16) \
    ROW(f64, panel, 14, 16) \
    ROW(f64, panel, 12, 16) \
    ROW(f64, panel, 8, 24) \
    ROW(f64, panel, 6, 32) \
    ROW(f64, panel, 8, 16) \
    ROW(f64, panel, 4, 32) \
    ROW(f64, panel, 14, 8) \
    ROW(f64, panel, 8, 8) \
    ROW(i64, panel, 8, 24) \
    ROW(i64, panel, 8, 8) \
    ROW(f32, collect, 1, 16) \
    ROW(f32, interleave, 1, 16) \
    ROW(f32, inner, 8, 16) \
    ROW(f32, band, 1, 16) \
    ROW(f64, collect, 1, 8) \
    ROW(f64, interleave, 1, 8) \
    ROW(f64, inner, 8, 8) \
    ROW(f64, band, 1, 8) \
    ROW(i64, collect, 1, 8) \
    ROW(i64, interleave, 1, 8) \
    ROW(i64, inner, 8, 8) \
    ROW(f32, outer, 14, 32) \
    ROW(f32, outer, 8, 48) \
    ROW(f32, outer, 6, 64) \
    ROW(f32, outer, 8, 32) \
    ROW(f32, outer, 4, 64) \
    ROW(f32, outer, 4, 96) \
    ROW(f32, outer, 2, 128) \
    ROW(f32, outer, 1, 128) \
    ROW(f32, outer, 12, 16) \
    ROW(f32, outer, 8, 16) \
    ROW(f32, outer, 4, 32) \
    ROW(f32, outer, 1, 32) \
    ROW(f32, outer, 1, 16) \
    ROW(f64, outer, 14, 16) \
    ROW(f64, outer, 8, 24) \
    ROW(f64, outer, 6, 32) \
    ROW(f64, outer, 4, 48) \
    ROW(f64, outer, 2, 64) \
    ROW(f64, outer, 1, 64) \
    ROW(f64, outer, 12, 8) \
    ROW(f64, outer, 8, 8) \
    ROW(f64, outer, 4, 16) \
    ROW(f64, outer, 1, 16) \
    ROW(f64, outer, 1, 8) \
    ROW(i64, outer, 8, 24) \
    ROW(i64, outer, 4, 24) \
    ROW(i64, outer, 1, 32) \
    ROW(i64, outer, 8, 8) \
    ROW(i64, outer, 1, 8) \
    ROW(f32, sliding, 14, 16) \
    ROW(f32, sliding, 8, 48) \
    ROW(f32, sliding, 8, 32) \
    ROW(f32, sliding, 8, 16) \
    ROW(f32, sliding, 7, 16) \
    ROW(f32, sliding, 6, 48) \
    ROW(f32, sliding, 5, 64) \
    ROW(f32, sliding, 4, 64) \
    ROW(f32, sliding, 5, 16) \
    ROW(f32, sliding, 3, 96) \
    ROW(f32, sliding, 3, 64) \
    ROW(f32, sliding, 3, 32) \
    ROW(f32, sliding, 3, 16) \
    ROW(f32, sliding, 2, 64) \
    ROW(f32, sliding, 2, 32) \
    ROW(f32, sliding, 1, 64) \
    ROW(f64, sliding, 8, 24) \
    ROW(f64, sliding, 3, 32) \
    ROW(f64, sliding, 3, 8) \
    ROW(f64, sliding, 1, 32) \
    ROW(i64, sliding, 3, 16) \
    ROW(i64, sliding, 1, 8) \
    ROW(f32, weigh, 3, 16) \
    ROW(f32, weigh, 5, 16) \
    ROW(f32, strip, 3, 16) \
    ROW(f32, strip, 5, 16) \
    ROW(f32, strip, 7, 16) \
    ROW(f64, weigh, 3, 8) \
    ROW(f64, weigh, 5, 8) \
    ROW(f64, strip, 3, 8) \
    ROW(f64, strip, 5, 8) \
    ROW(f64, strip, 7, 8) \
    ROW(f32, dot, 12, 32) \
    ROW(f32, dot, 9, 32) \
    ROW(f32, dot, 6, 64) \
    ROW(f32, dot, 13, 16) \
    ROW(f32, dot, 9, 16) \
    ROW(f32, dot, 5, 16) \
    ROW(f32, dot, 1, 16) \
    ROW(f64, dot, 6, 32) \
    ROW(f64, dot, 9, 8) \
    ROW(f64, dot, 5, 8) \
    ROW(f64, dot, 1, 8) \
    ROW(i64, dot, 9, 8) \
    ROW(i64, dot, 1, 8) \
    WINOGRAD(ROW, f32, 16) \
    WINOGRAD(ROW, f64, 8)

#define MICRO_KERNELS_avx2(ROW) \
    ROW(f32, panel, 6, 16) \
    ROW(f32, panel, 4, 24) \
    ROW(f32, panel, 8, 8) \
    ROW(f64, panel, 6, 8) \
    ROW(f64, panel, 4, 12) \
    ROW(f64, panel, 8, 4) \
    ROW(i64, panel, 4, 8) \
    ROW(f32, collect, 1, 8) \
    ROW(f32, interleave, 1, 8) \
    ROW(f32, inner, 8, 8) \
    ROW(f32, band, 1, 8) \
    ROW(f64, collect, 1, 4) \
    ROW(f64, interleave, 1, 4) \
    ROW(f64, inner, 8, 4) \
    ROW(f64, band, 1, 4) \
    ROW(i64, collect, 1, 4) \
    ROW(i64, interleave, 1, 4) \
    ROW(i64, inner, 8, 4) \
    ROW(f32, outer, 6, 16) \
    ROW(f32, outer, 4, 24) \
    ROW(f32, outer, 2, 40) \
    ROW(f32, outer, 1, 64) \
    ROW(f32, outer, 8, 8) \
    ROW(f32, outer, 1, 16) \
    ROW(f32, outer, 1, 8) \
    ROW(f64, outer, 6, 8) \
    ROW(f64, outer, 4, 12) \
    ROW(f64, outer, 2, 20) \
    ROW(f64, outer, 1, 32) \
    ROW(f64, outer, 8, 4) \
    ROW(f64, outer, 1, 8) \
    ROW(f64, outer, 1, 4) \
    ROW(i64, outer, 4, 8) \
    ROW(i64, outer, 1, 16) \
    ROW(i64, outer, 1, 4) \
    ROW(f32, sliding, 8, 8) \
    ROW(f32, sliding, 5, 16) \
    ROW(f32, sliding, 3, 24) \
    ROW(f32, sliding, 3, 8) \
    ROW(f32, sliding, 2, 32) \
    ROW(f32, sliding, 1, 32) \
    ROW(f32, sliding, 1, 8) \
    ROW(f64, sliding, 5, 8) \
    ROW(f64, sliding, 3, 12) \
    ROW(f64, sliding, 3, 4) \
    ROW(f64, sliding, 1, 16) \
    ROW(i64, sliding, 3, 8) \
    ROW(i64, sliding, 1, 4) \
    ROW(f32, weigh, 3, 8) \
    ROW(f32, strip, 3, 8) \
    ROW(f32, strip, 5, 8) \
    ROW(f64, weigh, 3, 4) \
    ROW(f64, strip, 3, 4) \
    ROW(f64, strip, 5, 4) \
    ROW(f32, dot, 9, 8) \
    ROW(f32, dot, 5, 8) \
    ROW(f32, dot, 1, 8) \
    ROW(f64, dot, 9, 4) \
    ROW(f64, dot, 5, 4) \
    ROW(f64, dot, 1, 4) \
    ROW(i64, dot, 9, 4) \
    ROW(i64, dot, 1, 4) \
    WINOGRAD(ROW, f32, 8) \
    WINOGRAD(ROW, f64, 4)

#if defined(__aarch64__)
#define MICRO_KERNELS_baseline(ROW) \
    ROW(f32, panel, 8, 12) \
    ROW(f32, panel, 8, 8) \
    ROW(f32, panel, 4, 16) \
    ROW(f32, panel, 8, 4) \
    ROW(f64, panel, 8, 6) \
    ROW(f64, panel, 8, 4) \
    ROW(f64, panel, 4, 8) \
    ROW(f64, panel, 8, 2) \
    ROW(i64, panel, 4, 4) \
    ROW(f32, collect, 1, 4) \
    ROW(f32, interleave, 1, 4) \
    ROW(f32, inner, 8, 4) \
    ROW(f32, band, 1, 4) \
    ROW(f64, collect, 1, 2) \
    ROW(f64, interleave, 1, 2) \
    ROW(f64, inner, 8, 2) \
    ROW(f64, band, 1, 2) \
    ROW(i64, collect, 1, 2) \
    ROW(i64, interleave, 1, 2) \
    ROW(i64, inner, 8, 2) \
    ROW(f32, outer, 8, 12) \
    ROW(f32, outer, 8, 8) \
    ROW(f32, outer, 4, 16) \
    ROW(f32, outer, 1, 32) \
    ROW(f32, outer, 8, 4) \
    ROW(f32, outer, 1, 4) \
    ROW(f64, outer, 8, 6) \
    ROW(f64, outer, 8, 4) \
    ROW(f64, outer, 4, 8) \
    ROW(f64, outer, 1, 16) \
    ROW(f64, outer, 8, 2) \
    ROW(f64, outer, 1, 2) \
    ROW(i64, outer, 4, 4) \
    ROW(i64, outer, 1, 8) \
    ROW(i64, outer, 1, 2) \
    ROW(f32, sliding, 5, 8) \
    ROW(f32, sliding, 3, 12) \
    ROW(f32, sliding, 3, 4) \
    ROW(f32, sliding, 1, 16) \
    ROW(f64, sliding, 5, 4) \
    ROW(f64, sliding, 3, 6) \
    ROW(f64, sliding, 1, 8) \
    ROW(i64, sliding, 3, 4) \
    ROW(i64, sliding, 1, 2) \
    ROW(f32, dot, 9, 4) \
    ROW(f32, dot, 5, 4) \
    ROW(f32, dot, 1, 4) \
    ROW(f64, dot, 9, 2) \
    ROW(f64, dot, 5, 2) \
    ROW(f64, dot, 1, 2) \
    ROW(i64, dot, 9, 2) \
    ROW(i64, dot, 1, 2) \
    WINOGRAD(ROW, f32, 4) \
    WINOGRAD(ROW, f64, 2)
#else
#define MICRO_KERNELS_baseline(ROW) \
    ROW(f32, panel, 4, 8) \
    ROW(f32, panel, 2, 16) \
    ROW(f32, panel, 8, 4) \
    ROW(f64, panel, 4, 4) \
    ROW(f64, panel, 2, 8) \
    ROW(f64, panel, 8, 2) \
    ROW(i64, panel, 4, 4) \
    ROW(f32, collect, 1, 4) \
    ROW(f32, interleave, 1, 4) \
    ROW(f32, inner, 8, 4) \
    ROW(f32, band, 1, 4) \
    ROW(f64, collect, 1, 2) \
    ROW(f64, interleave, 1, 2) \
    ROW(f64, inner, 8, 2) \
    ROW(f64, band, 1, 2) \
    ROW(i64, collect, 1, 2) \
    ROW(i64, interleave, 1, 2) \
    ROW(i64, inner, 8, 2) \
    ROW(f32, outer, 4, 8) \
    ROW(f32, outer, 2, 16) \
    ROW(f32, outer, 1, 32) \
    ROW(f32, outer, 8, 4) \
    ROW(f32, outer, 1, 4) \
    ROW(f64, outer, 4, 4) \
    ROW(f64, outer, 2, 8) \
    ROW(f64, outer, 1, 16) \
    ROW(f64, outer, 8, 2) \
    ROW(f64, outer, 1, 2) \
    ROW(i64, outer, 4, 4) \
    ROW(i64, outer, 1, 8) \
    ROW(i64, outer, 1, 2) \
    ROW(f32, sliding, 5, 8) \
    ROW(f32, sliding, 3, 12) \
    ROW(f32, sliding, 3, 4) \
    ROW(f32, sliding, 1, 16) \
    ROW(f64, sliding, 5, 4) \
    ROW(f64, sliding, 3, 6) \
    ROW(f64, sliding, 1, 8) \
    ROW(i64, sliding, 3, 4) \
    ROW(i64, sliding, 1, 2) \
    ROW(f32, dot, 9, 4) \
    ROW(f32, dot, 5, 4) \
    ROW(f32, dot, 1, 4) \
    ROW(f64, dot, 9, 2) \
    ROW(f64, dot, 5, 2) \
    ROW(f64, dot, 1, 2) \
    ROW(i64, dot, 9, 2) \
    ROW(i64, dot, 1, 2) \
    WINOGRAD(ROW, f32, 4) \
    WINOGRAD(ROW, f64, 2)
#endif

#endif
