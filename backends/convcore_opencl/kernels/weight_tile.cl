/*
 * Purpose
 *   grad_weight with a tile of LANES output channels by CHANNELS x TILE_H x TILE_W taps kept in registers
 *   by each work-item, over a chunk of the reduction.
 *
 * Formula
 *   dw[chunk][k,c,r,s] = sum_{n,p,q in chunk} packed[n,k,p,q] * x[n,c, p * STRIDE_H + r * DILATION_H - before.x,
 *                                                                     q * STRIDE_W + s * DILATION_W - before.y]
 *
 * Operands
 *   x       (N, channels, image.x, image.y)           in the layout of at()
 *   g       (N, out_channels, result.x, result.y)     in the layout of at()
 *   packed  [N][groups * blocks][result.x][result.y][LANES], where a block is LANES output channels of a
 *           group, the last one filled up with zeros
 *   dw      (chunks, out_channels, channels / groups, taps.x, taps.y) in row-major order; with one chunk the result
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   LANES             4 or 8   elements of a vector; wider ones abort PoCL 3.0
 *   TILE_H, TILE_W    1 to 12  taps of a tile
 *   CHANNELS          1 to 8   input channels of a tile
 *                     CHANNELS * TILE_H * TILE_W is the number of accumulators: at most 12 of the 16
 *                     vector registers of AVX2
 *
 * Blocking
 *   No __local memory, no barrier.  For each pixel: one vector of gradients, and for each accumulator one
 *   broadcast pixel of x and one multiply-add.
 *
 * The caller guarantees
 *   items = chunks * groups * blocks * tiles; more work-items do nothing.  A chunk is `rows` of the N * result.x rows.
 *
 * Edges
 *   Pixels whose taps are all inside are read directly; others are looked up one by one, the fill value
 *   outside.  What a tile computes beyond the last channel or tap is not stored.
 *
 * Source
 *   The tile of register_tile.cl with pixels and taps exchanged.
 */

kernel void pack(global const RESULT *g, long g0, global RESULT *packed, long packed0, int out_channels, int2 result,
                 int groups, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int per_group = out_channels / groups, blocks = (per_group + LANES - 1) / LANES;
    const int q = item % result.y, p = item / result.y % result.x;
    const long image_block = item / result.y / result.x;
    const int block = image_block % (groups * blocks), n = image_block / (groups * blocks);
    const int first = block % blocks * LANES, group = block / blocks;
    packed += packed0 + item * LANES;
    for (int lane = 0; lane < LANES; ++lane)
        packed[lane] =
            first + lane < per_group ? g[g0 + at(n, group * per_group + first + lane, p, q, out_channels, result)] : 0;
}

kernel void correlate(global const RESULT *x, long x0, global const vector *packed, long packed0, global RESULT *dw,
                      long dw0, int channels, int2 image, int out_channels, int2 result, int groups, int2 taps,
                      int2 before, RESULT fill, long items, long all_rows, long rows) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int depth = channels / groups, per_group = out_channels / groups;
    const int2 tiles = (taps + (int2)(TILE_H - 1, TILE_W - 1)) / (int2)(TILE_H, TILE_W);
    const int channel_tiles = (depth + CHANNELS - 1) / CHANNELS, blocks = (per_group + LANES - 1) / LANES;
    const int s0 = item % tiles.y * TILE_W, r0 = item / tiles.y % tiles.x * TILE_H;
    const int c0 = item / tiles.y / tiles.x % channel_tiles * CHANNELS;
    const long chunk_block = item / tiles.y / tiles.x / channel_tiles;
    const int block = chunk_block % (groups * blocks), group = block / blocks;
    const long chunk = chunk_block / (groups * blocks);

    /* Output columns [inside_from, inside_to) read no pixel left or right of the image. */
    const int left = s0 * DILATION_W - before.y, right = left + (TILE_W - 1) * DILATION_W;
    const int inside_from = MAX(-left + STRIDE_W - 1, 0) / STRIDE_W;
    const int inside_to = right < image.y ? (image.y - 1 - right) / STRIDE_W + 1 : 0;
    const int column_step = COLUMN_STEP(channels);

    vector sums[CHANNELS][TILE_H][TILE_W];
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
        for (int r = 0; r < TILE_H; ++r)
#pragma unroll
            for (int s = 0; s < TILE_W; ++s) sums[c][r][s] = 0;

    for (long row = chunk * rows; row < MIN((chunk + 1) * rows, all_rows); ++row) {
        const int p = row % result.x, n = row / result.x;
        const long image_block = (long)n * groups * blocks + block;
        global const vector *gradient = packed + packed0 + (image_block * result.x + p) * result.y;
        global const RESULT *line[CHANNELS][TILE_H];
        bool exists[TILE_H];
        bool inside = true;
#pragma unroll
        for (int r = 0; r < TILE_H; ++r) {
            const int h = source(p * STRIDE_H + (r0 + r) * DILATION_H - before.x, image.x);
            exists[r] = h >= 0;
            inside = inside && exists[r];
#pragma unroll
            for (int c = 0; c < CHANNELS; ++c)
                line[c][r] = x + x0 + at(n, group * depth + MIN(c0 + c, depth - 1), MAX(h, 0), 0, channels, image);
        }
        for (int q = 0; q < result.y; ++q) {
            const vector pixel = gradient[q];
            if (inside && q >= inside_from && q < inside_to) {
                const long from = (long)(q * STRIDE_W + left) * column_step;
#pragma unroll
                for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
                    for (int r = 0; r < TILE_H; ++r)
#pragma unroll
                        for (int s = 0; s < TILE_W; ++s)
                            sums[c][r][s] =
                                multiply_add(sums[c][r][s], pixel, line[c][r][from + s * DILATION_W * column_step]);
                continue;
            }
#pragma unroll
            for (int s = 0; s < TILE_W; ++s) {
                const int w = source(q * STRIDE_W + left + s * DILATION_W, image.y);
#pragma unroll
                for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
                    for (int r = 0; r < TILE_H; ++r)
                        sums[c][r][s] += (exists[r] && w >= 0 ? line[c][r][(long)w * column_step] : fill) * pixel;
            }
        }
    }

    dw += dw0 + chunk * out_channels * depth * taps.x * taps.y;
#pragma unroll
    for (int c = 0; c < CHANNELS; ++c)
#pragma unroll
        for (int r = 0; r < TILE_H; ++r)
#pragma unroll
            for (int s = 0; s < TILE_W; ++s) {
                if (c0 + c >= depth || r0 + r >= taps.x || s0 + s >= taps.y) continue;
                union {
                    vector all;
                    RESULT lane[LANES];
                } sum = {sums[c][r][s]};
                const int k = block % blocks * LANES;
                for (int lane = 0; lane < LANES && k + lane < per_group; ++lane) {
                    const long pair = (long)(group * per_group + k + lane) * depth + c0 + c;
                    dw[(pair * taps.x + r0 + r) * taps.y + s0 + s] = sum.lane[lane];
                }
            }
}
