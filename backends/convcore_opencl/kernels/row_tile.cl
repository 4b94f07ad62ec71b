/*
 * Purpose
 *   Correlation with a tile of TILE_H rows by VECTORS * LANES pixels of one output channel kept in registers by
 *   each work-item: for depthwise and one-channel problems, where a tile of channels would be empty.
 *   It computes forward, and grad_input as one dense correlation for each phase of the stride.
 *
 * Formula
 *   out[n, k, first + step * (i, j)] = bias[k] + sum_{c,r,s} weight[k, c, first_tap + tap_step * (r, s)]
 *       * in[n, c, i * STRIDE_H + r * DILATION_H - before.x, j * STRIDE_W + s * DILATION_W - before.y]
 *
 * Operands
 *   in      (N, channels, image.x, image.y)       in the layout of at()
 *   out     (N, out_channels, result.x, result.y) in the layout of at(); written at the `grid` points only
 *   weight  (out_channels, channels / groups, taps.x, taps.y) in row-major order, any steps
 *   bias    one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   LANES            4 or 8   elements of a vector; wider ones abort PoCL 3.0
 *   TILE_H, VECTORS  1 to 4   TILE_H * VECTORS is the number of accumulators: at most 12 of the 16 vector
 *                             registers of AVX2
 *
 * Blocking
 *   No __local memory, no barrier.  The pixels under a tile are staged in private memory, where the boundary is
 *   resolved once for each, and columns are sorted by their phase in the stride, so that what a tap meets is
 *   contiguous: ROWS * STRIDE_W * PITCH elements.  Then for each tap: one broadcast weight, and for each
 *   accumulator one load and one multiply-add.
 *
 * The caller guarantees
 *   items = images * out_channels * tiles; more work-items do nothing.  depth is channels / groups, or 0 for a
 *   phase of the stride that no tap reaches, which leaves the bias alone.  With SKIP_OUTSIDE fill is 0, STRIDE_W is 1.
 *
 * Edges
 *   What lies outside is staged as the fill value.  With SKIP_OUTSIDE (grad_input) it does not exist: its zero
 *   is harmless but for an infinite or NaN weight, whose products are masked.
 *
 * Source
 *   Zhang, Lo and Lu, "High Performance Depthwise and Pointwise Convolutions on Mobile Devices" (AAAI 2020),
 *   section 3; here the pixels are staged first.
 */

#define TILE_W (VECTORS * LANES)
/* Rows and columns under a tile, and columns of one phase of the stride. */
#define ROWS ((TILE_H - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1)
#define SPAN ((TILE_W - 1) * STRIDE_W + (TAPS_W - 1) * DILATION_W + 1)
#define PITCH ((SPAN + STRIDE_W - 1) / STRIDE_W)

#define TAP(r, s) weight[(long)(r) * tap_step.x * taps.y + (s) * tap_step.y]
/* What tap (r, s) meets under vector v of a row of the tile. */
#define PIXELS_UNDER(row, v, r, s)                                                                                     \
    (*(private const loose *)&staged[(row) * STRIDE_H + (r) * DILATION_H][(s) * DILATION_W % STRIDE_W]                 \
                                    [(s) * DILATION_W / STRIDE_W + (v) * LANES])

kernel void correlate(global const RESULT *in, long in0, global const RESULT *weight, long weight0,
                      global const RESULT *bias, long bias0, global RESULT *out, long out0, int channels, int2 image,
                      int out_channels, int2 result, int groups, int depth, int2 taps, long group_step, long out_step,
                      long depth_step, int2 first_tap, int2 tap_step, int2 before, int2 grid, int2 step, int2 first,
                      RESULT fill, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int2 tiles = (grid + (int2)(TILE_H - 1, TILE_W - 1)) / (int2)(TILE_H, TILE_W);
    const int j = item % tiles.y * TILE_W, i = item / tiles.y % tiles.x * TILE_H;
    const long image_channel = item / tiles.y / tiles.x;
    const int k = image_channel % out_channels, n = image_channel / out_channels;
    const int per_group = out_channels / groups, group = k / per_group;
    const int top = i * STRIDE_H - before.x, left = j * STRIDE_W - before.y;
    weight += weight0 + group * group_step + k % per_group * out_step + (long)first_tap.x * taps.y + first_tap.y;

    RESULT staged[ROWS][STRIDE_W][PITCH];
    vector sums[TILE_H][VECTORS];
#pragma unroll
    for (int row = 0; row < TILE_H; ++row)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) sums[row][v] = 0;

    for (int c = 0; c < depth; ++c, weight += depth_step) {
        for (int row = 0; row < ROWS; ++row) {
            const int h = source(top + row, image.x);
            global const RESULT *line = in + in0 + at(n, group * depth + c, MAX(h, 0), 0, channels, image);
            stage(&staged[row][0][0], PITCH, line, COLUMN_STEP(channels), left, h, image.y, fill);
        }
#if SKIP_OUTSIDE
        RESULT zero = 0;
        for (int r = 0; r < TAPS_H; ++r)
            for (int s = 0; s < TAPS_W; ++s) zero += 0 * TAP(r, s);
        if (zero != 0) {
            for (int r = 0; r < TAPS_H; ++r)
                for (int s = 0; s < TAPS_W; ++s)
#pragma unroll
                    for (int row = 0; row < TILE_H; ++row)
#pragma unroll
                        for (int v = 0; v < VECTORS; ++v) {
                            const int h = top + row + r * DILATION_H;
                            const indices w = counted(left + v * LANES + s * DILATION_W);
                            const indices exists = w >= 0 && w < (indices)image.y && (indices)(h >= 0 && h < image.x);
                            sums[row][v] += exists ? PIXELS_UNDER(row, v, r, s) * TAP(r, s) : (vector)0;
                        }
            continue;
        }
#endif
        for (int r = 0; r < TAPS_H; ++r)
            for (int s = 0; s < TAPS_W; ++s) {
                const RESULT tap = TAP(r, s);
#pragma unroll
                for (int row = 0; row < TILE_H; ++row)
#pragma unroll
                    for (int v = 0; v < VECTORS; ++v)
                        sums[row][v] = multiply_add(sums[row][v], PIXELS_UNDER(row, v, r, s), tap);
            }
    }

    const RESULT shift = bias ? bias[bias0 + k] : 0;
#pragma unroll
    for (int row = 0; row < TILE_H; ++row) {
        if (i + row >= grid.x) continue;
        const int p = first.x + (i + row) * step.x;
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            union {
                vector all;
                RESULT lane[LANES];
            } sum = {sums[row][v] + shift};
            const int from = j + v * LANES;
            global RESULT *line = out + out0 + at(n, k, p, first.y, out_channels, result);
            if (!NHWC && step.y == 1 && from + LANES <= grid.y) {
                *(global loose *)(line + from) = sum.all;
                continue;
            }
            for (int lane = 0; lane < LANES && from + lane < grid.y; ++lane)
                line[(long)(from + lane) * step.y * COLUMN_STEP(out_channels)] = sum.lane[lane];
        }
    }
}
