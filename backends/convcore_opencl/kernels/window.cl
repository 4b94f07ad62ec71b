/*
 * Purpose
 *   Depthwise layers, single images and large kernels on discrete GPUs: a group shares the pixels under a tile of one
 *   output channel, and its taps, in __local memory.
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
 *   index map of work-item id in its group of 16 x 16: rows id / 16 * ITEM_H + i, columns id % 16 * ITEM_W + j
 *
 * Tunables
 *   ITEM_H, ITEM_W  1 to 4  results of a work-item down and across: ITEM_H * ITEM_W accumulators, and that many
 *                           results for each tap that is read from __local memory
 *
 * Blocking
 *   __local memory has ROWS * SPAN pixels and TAPS_H * TAPS_W taps: 22 KB for 31 x 31 taps and tiles of 32 x 64.
 *   Along a row of taps the pixels that neighbouring results share are read once, in registers.
 *
 * The caller guarantees
 *   one work-group of 256 for each tile of each output channel.  depth is channels / groups, or 0 for a phase of the
 *   stride that no tap reaches, which leaves the bias alone.  With SKIP_OUTSIDE fill is 0.
 *
 * Edges
 *   What lies outside is brought as the fill value.  With SKIP_OUTSIDE (grad_input) it does not exist: a result that is
 *   NaN is computed again, without such products.
 *
 * Source
 *   Podlozhnyuk, "Image Convolution with CUDA" (2007), for the shared tile and its apron.
 */

#define SIDE 16
#define TILE_H (SIDE * ITEM_H)
#define TILE_W (SIDE * ITEM_W)
#define ROWS ((TILE_H - 1) * STRIDE_H + (TAPS_H - 1) * DILATION_H + 1)
#define SPAN ((TILE_W - 1) * STRIDE_W + (TAPS_W - 1) * DILATION_W + 1)
#define TAP(c, r, s) weight[(c) * depth_step + (long)(r) * tap_step.x * taps.y + (s) * tap_step.y]

kernel __attribute__((reqd_work_group_size(SIDE * SIDE, 1, 1))) void
correlate(global const RESULT *in, long in0, global const RESULT *weight, long weight0, global const RESULT *bias,
          long bias0, global RESULT *out, long out0, int channels, int2 image, int out_channels, int2 result,
          int groups, int depth, int2 taps, long group_step, long out_step, long depth_step, int2 first_tap,
          int2 tap_step, int2 before, int2 grid, int2 step, int2 first, RESULT fill) {
    local RESULT pixels[ROWS][SPAN], near[TAPS_H * TAPS_W];
    const int id = get_local_id(0);
    const int2 tiles = (grid + (int2)(TILE_H - 1, TILE_W - 1)) / (int2)(TILE_H, TILE_W);
    const int j0 = get_group_id(0) % tiles.y * TILE_W, i0 = get_group_id(0) / tiles.y % tiles.x * TILE_H;
    const long image_channel = get_group_id(0) / tiles.y / tiles.x;
    const int k = image_channel % out_channels, n = image_channel / out_channels;
    const int per_group = out_channels / groups, group = k / per_group;
    const int top = i0 * STRIDE_H - before.x, left = j0 * STRIDE_W - before.y;
    const int i_of = id / SIDE * ITEM_H, j_of = id % SIDE * ITEM_W;
    weight += weight0 + group * group_step + k % per_group * out_step + (long)first_tap.x * taps.y + first_tap.y;

    RESULT sums[ITEM_H][ITEM_W];
#pragma unroll
    for (int i = 0; i < ITEM_H; ++i)
#pragma unroll
        for (int j = 0; j < ITEM_W; ++j) sums[i][j] = 0;

    for (int c = 0; c < depth; ++c) {
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int pixel = id; pixel < ROWS * SPAN; pixel += SIDE * SIDE) {
            const int h = source(top + pixel / SPAN, image.x), w = source(left + pixel % SPAN, image.y);
            pixels[pixel / SPAN][pixel % SPAN] =
                h < 0 || w < 0 ? fill : in[in0 + at(n, group * depth + c, h, w, channels, image)];
        }
        for (int tap = id; tap < TAPS_H * TAPS_W; tap += SIDE * SIDE) near[tap] = TAP(c, tap / TAPS_W, tap % TAPS_W);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int r = 0; r < TAPS_H; ++r)
#pragma unroll 8
            for (int s = 0; s < TAPS_W; ++s) {
                const RESULT tap = near[r * TAPS_W + s];
#pragma unroll
                for (int i = 0; i < ITEM_H; ++i)
#pragma unroll
                    for (int j = 0; j < ITEM_W; ++j)
                        sums[i][j] +=
                            pixels[(i_of + i) * STRIDE_H + r * DILATION_H][(j_of + j) * STRIDE_W + s * DILATION_W] *
                            tap;
            }
    }

    const RESULT shift = bias ? bias[bias0 + k] : 0;
#pragma unroll
    for (int i = 0; i < ITEM_H; ++i)
#pragma unroll
        for (int j = 0; j < ITEM_W; ++j) {
            const int row = i0 + i_of + i, column = j0 + j_of + j;
            if (row >= grid.x || column >= grid.y) continue;
            RESULT sum = sums[i][j];
#if SKIP_OUTSIDE
            if (sum != sum) {
                sum = 0;
                for (int c = 0; c < depth; ++c)
                    for (int tap = 0; tap < TAPS_H * TAPS_W; ++tap) {
                        const int h = source(row * STRIDE_H - before.x + tap / TAPS_W * DILATION_H, image.x);
                        const int w = source(column * STRIDE_W - before.y + tap % TAPS_W * DILATION_W, image.y);
                        if (h >= 0 && w >= 0)
                            sum += in[in0 + at(n, group * depth + c, h, w, channels, image)] *
                                   TAP(c, tap / TAPS_W, tap % TAPS_W);
                    }
            }
#endif
            out[out0 + at(n, k, first.x + row * step.x, first.y + column * step.y, out_channels, result)] = sum + shift;
        }
}
