/*
 * Purpose
 *   Correlation with a tile of LANES output channels by PIXELS neighbouring pixels kept in registers by
 *   each work-item: for CPU drivers, and for GPUs whose local memory is no faster than their cache.
 *   It computes forward, and grad_input as one dense correlation for each phase of the stride.
 *
 * Formula
 *   out[n, k, first + step * (i, j)] = bias[k] + sum_{c,r,s} packed[k,c,r,s]
 *       * in[n, c, i * STRIDE_H + r * DILATION_H - before.x, j * STRIDE_W + s * DILATION_W - before.y]
 *
 * Operands
 *   in      (N, channels, image.x, image.y)       in the layout of at()
 *   out     (N, out_channels, result.x, result.y) in the layout of at(); written at the `grid` points only
 *   packed  [groups][blocks][depth][TAPS_H][TAPS_W][LANES], pack.cl's copy of the weight with BLOCK = LANES
 *   bias    one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   LANES   4 or 8        elements of a vector; wider ones abort PoCL 3.0
 *   PIXELS  1 to 16       pixels of a row in a tile; PIXELS accumulators of LANES elements should fit the
 *                         registers: 8 of float8 are 8 of the 16 of AVX2, 64 of a GPU's 255
 *
 * Blocking
 *   No __local memory, no barrier.  For each tap: one vector of weights, PIXELS broadcast pixels, PIXELS
 *   multiply-adds, written a * b + c because PoCL makes a call of mad() and fma().
 *
 * The caller guarantees
 *   items = images * blocks * groups * tiles; more work-items do nothing.  depth is channels / groups, or 0
 *   for a phase of the stride that no tap reaches, which leaves the bias alone.  With SKIP_OUTSIDE fill is 0.
 *
 * Edges
 *   Tiles whose pixels are all inside read them directly; others look each one up.  What lies outside is the
 *   fill value, or with SKIP_OUTSIDE (grad_input) does not exist: rows are passed over, and a column's zero is
 *   harmless but for an infinite or NaN weight, whose products are masked.
 *
 * Source
 *   The packing and the tile follow Zhang, Franchetti and Low, "High Performance Zero-Memory Overhead
 *   Direct Convolutions" (ICML 2018), section 3; the phases, Dumoulin and Visin (2016), section 4.
 */

/* Pixels of a row that a tile reads. */
#define SPAN ((PIXELS - 1) * STRIDE_W + (TAPS_W - 1) * DILATION_W + 1)

kernel void correlate(global const RESULT *in, long in0, global const vector *packed, long packed0,
                      global const RESULT *bias, long bias0, global RESULT *out, long out0, int channels, int2 image,
                      int out_channels, int2 result, int groups, int depth, int2 before, int2 grid, int2 step,
                      int2 first, RESULT fill, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int tiles_in_row = (grid.y + PIXELS - 1) / PIXELS;
    const int j = item % tiles_in_row * PIXELS, i = item / tiles_in_row % grid.x;
    const long image_block = item / tiles_in_row / grid.x;
    const int per_group = out_channels / groups, blocks = (per_group + LANES - 1) / LANES;
    const int block = image_block % (groups * blocks), n = image_block / (groups * blocks);
    const int group = block / blocks, k = group * per_group + block % blocks * LANES;
    const int top = i * STRIDE_H - before.x, left = j * STRIDE_W - before.y;
    const int column_step = COLUMN_STEP(channels);
    const bool rows_count = SKIP_OUTSIDE || (top >= 0 && top + (TAPS_H - 1) * DILATION_H < image.x);
    const bool inside = rows_count && left >= 0 && left + SPAN <= image.y;

    global const vector *taps = packed + packed0 + (long)block * depth * TAPS_H * TAPS_W;
#if SKIP_OUTSIDE
    /* 0 * w is 0 unless w is infinite or NaN. */
    vector zero = 0;
    for (int tap = 0; tap < depth * TAPS_H * TAPS_W && !inside; ++tap) zero += 0 * taps[tap];
    const bool finite = !any_of(zero != 0);
#endif
    vector sums[PIXELS];
#pragma unroll
    for (int pixel = 0; pixel < PIXELS; ++pixel) sums[pixel] = 0;

    for (int c = group * depth; c < (group + 1) * depth; ++c)
        for (int r = 0; r < TAPS_H; ++r, taps += TAPS_W) {
            const int h = source(top + r * DILATION_H, image.x);
#if SKIP_OUTSIDE
            if (h < 0) continue;
#endif
            if (inside) {
                global const RESULT *row = in + in0 + at(n, c, h, left, channels, image);
#pragma unroll
                for (int s = 0; s < TAPS_W; ++s) {
                    const vector tap = taps[s];
#pragma unroll
                    for (int pixel = 0; pixel < PIXELS; ++pixel)
                        sums[pixel] =
                            multiply_add(sums[pixel], tap, row[(pixel * STRIDE_W + s * DILATION_W) * column_step]);
                }
                continue;
            }
            RESULT row[SPAN];
#pragma unroll
            for (int span = 0; span < SPAN; ++span) {
                const int w = source(left + span, image.y);
                row[span] = (h < 0 || w < 0) ? fill : in[in0 + at(n, c, h, w, channels, image)];
            }
#if SKIP_OUTSIDE
            if (!finite) {
#pragma unroll
                for (int s = 0; s < TAPS_W; ++s)
#pragma unroll
                    for (int pixel = 0; pixel < PIXELS; ++pixel) {
                        const int span = pixel * STRIDE_W + s * DILATION_W;
                        sums[pixel] += source(left + span, image.y) < 0 ? (vector)0 : row[span] * taps[s];
                    }
                continue;
            }
#endif
#pragma unroll
            for (int s = 0; s < TAPS_W; ++s) {
                const vector tap = taps[s];
#pragma unroll
                for (int pixel = 0; pixel < PIXELS; ++pixel)
                    sums[pixel] += row[pixel * STRIDE_W + s * DILATION_W] * tap;
            }
        }

#pragma unroll
    for (int pixel = 0; pixel < PIXELS; ++pixel) {
        if (j + pixel >= grid.y) continue;
        union {
            vector all;
            RESULT lane[LANES];
        } sum = {sums[pixel]};
        for (int lane = 0; lane < LANES && k + lane < (group + 1) * per_group; ++lane) {
            const int p = first.x + i * step.x, q = first.y + (j + pixel) * step.y;
            const RESULT shift = bias ? bias[bias0 + k + lane] : 0;
            out[out0 + at(n, k + lane, p, q, out_channels, result)] = sum.lane[lane] + shift;
        }
    }
}
