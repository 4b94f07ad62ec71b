/*
 * Purpose
 *   grad_weight with the taps of one pair of channels in registers, a vector of partial sums each, by each
 *   work-item over a chunk of the reduction: for depthwise and one-channel problems.
 *
 * Formula
 *   dw[chunk][k,c,r,s] = sum_{n,p,q in chunk} g[n,k,p,q] * x[n,c, p * STRIDE_H + r * DILATION_H - before.x,
 *                                                                q * STRIDE_W + s * DILATION_W - before.y]
 *
 * Operands
 *   x   (N, channels, image.x, image.y)        in the layout of at()
 *   g   (N, out_channels, result.x, result.y)  in the layout of at()
 *   dw  (chunks, out_channels, channels / groups, taps.x, taps.y) in row-major order; with one chunk the result
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   LANES             4 or 8   elements of a vector; wider ones abort PoCL 3.0
 *   TILE_H, TILE_W    1 to 12  taps of a tile; TILE_H * TILE_W is the number of accumulators: at most 12 of the
 *                              16 vector registers of AVX2
 *   VECTORS, BLOCK    1 to 8   vectors of output pixels, and rows of them, whose pixels are staged at a time
 *
 * Blocking
 *   No __local memory, no barrier.  The pixels under VECTORS * LANES neighbouring outputs of BLOCK rows are staged as
 *   in row_tile.cl, ROWS * STRIDE_W * PITCH elements, and so are their gradients.  Then for each vector of
 *   gradients and each accumulator: one load and one multiply-add.  Lanes are added up at the end, in order.
 *
 * The caller guarantees
 *   items = chunks * out_channels * channels / groups * tiles; more work-items do nothing.  A chunk is `rows` of
 *   the N * result.x rows.
 *
 * Edges
 *   What lies outside is staged as the fill value.  Beyond the end of a row gradients are zero, whose products with
 *   infinite pixels are NaN, so a sum that is NaN is computed again, without such products.  What a tile computes
 *   beyond the last tap is not stored.
 *
 * Source
 *   The staging of row_tile.cl with pixels and taps exchanged.
 */

#define OUTPUTS (VECTORS * LANES)
/* Rows under a block of outputs, and columns of one phase of the stride. */
#define ROWS_UNDER(block) (((block) - 1) * STRIDE_H + (TILE_H - 1) * DILATION_H + 1)
#define PITCH (((OUTPUTS - 1) * STRIDE_W + (TILE_W - 1) * DILATION_W) / STRIDE_W + 1)

/* What tap (r, s) of the tile meets at vector v of a row of the block. */
#define PIXELS_UNDER(row, v, r, s)                                                                                     \
    (*(private const loose *)&staged[(row) * STRIDE_H + (r) * DILATION_H][(s) * DILATION_W % STRIDE_W]                 \
                                    [(s) * DILATION_W / STRIDE_W + (v) * LANES])

/* What one tap, at (top, left) of the first output, meets in the rows [from, to), product by product. */
RESULT looked_up(global const RESULT *x, global const RESULT *g, int c, int k, int top, int left, long from, long to,
                 int channels, int2 image, int out_channels, int2 result, RESULT fill) {
    RESULT sum = 0;
    for (long row = from; row < to; ++row)
        for (int q = 0; q < result.y; ++q) {
            const int p = row % result.x, n = row / result.x;
            const int h = source(p * STRIDE_H + top, image.x), w = source(q * STRIDE_W + left, image.y);
            const RESULT pixel = h < 0 || w < 0 ? fill : x[at(n, c, h, w, channels, image)];
            sum += pixel * g[at(n, k, p, q, out_channels, result)];
        }
    return sum;
}

kernel void correlate(global const RESULT *x, long x0, global const RESULT *g, long g0, global RESULT *dw, long dw0,
                      int channels, int2 image, int out_channels, int2 result, int groups, int2 taps, int2 before,
                      RESULT fill, long items, long all_rows, long rows) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int depth = channels / groups;
    const int2 tiles = (taps + (int2)(TILE_H - 1, TILE_W - 1)) / (int2)(TILE_H, TILE_W);
    const int s0 = item % tiles.y * TILE_W, r0 = item / tiles.y % tiles.x * TILE_H;
    const long chunk_pair = item / tiles.y / tiles.x;
    const int pair = chunk_pair % ((long)out_channels * depth), k = pair / depth;
    const long chunk = chunk_pair / ((long)out_channels * depth);
    const int c = k / (out_channels / groups) * depth + pair % depth;
    const int top = r0 * DILATION_H - before.x, left = s0 * DILATION_W - before.y;
    const long from = chunk * rows, to = MIN(from + rows, all_rows);
    x += x0, g += g0;

    RESULT staged[ROWS_UNDER(BLOCK)][STRIDE_W][PITCH], scratch[STRIDE_W * PITCH], gradients[BLOCK][OUTPUTS];
    vector sums[TILE_H][TILE_W];
#pragma unroll
    for (int r = 0; r < TILE_H; ++r)
#pragma unroll
        for (int s = 0; s < TILE_W; ++s) sums[r][s] = 0;

    for (long row = from, block; row < to; row += block) {
        const int p = row % result.x, n = row / result.x;
        block = MIN(MIN(to - row, result.x - p), BLOCK);
        for (int q = 0; q < result.y; q += OUTPUTS) {
            const int there = MIN(result.y - q, OUTPUTS);
            for (int i = 0; i < block; ++i) {
                bring(gradients[i], g + at(n, k, p + i, q, out_channels, result), COLUMN_STEP(out_channels), there);
                spread(gradients[i] + there, OUTPUTS - there, 0);
            }
            for (int under = 0; under < ROWS_UNDER((int)block); ++under) {
                const int h = source(p * STRIDE_H + top + under, image.x);
                global const RESULT *line = x + at(n, c, MAX(h, 0), 0, channels, image);
                stage_sorted(&staged[under][0][0], scratch, PITCH, line, COLUMN_STEP(channels), q * STRIDE_W + left, h,
                             image.y, fill);
            }
            for (int i = 0; i < block; ++i)
                for (int v = 0; v * LANES < there; ++v) {
                    const vector gradient = *(private const loose *)&gradients[i][v * LANES];
#pragma unroll
                    for (int r = 0; r < TILE_H; ++r)
#pragma unroll
                        for (int s = 0; s < TILE_W; ++s)
                            sums[r][s] = multiply_add(sums[r][s], PIXELS_UNDER(i, v, r, s), gradient);
                }
        }
    }

    dw += dw0 + chunk_pair * taps.x * taps.y;
#pragma unroll
    for (int r = 0; r < TILE_H; ++r)
#pragma unroll
        for (int s = 0; s < TILE_W; ++s) {
            if (r0 + r >= taps.x || s0 + s >= taps.y) continue;
            union {
                vector all;
                RESULT lane[LANES];
            } sum = {sums[r][s]};
            RESULT total = 0;
            for (int lane = 0; lane < LANES; ++lane) total += sum.lane[lane];
            if (total != total)
                total = looked_up(x, g, c, k, top + r * DILATION_H, left + s * DILATION_W, from, to, channels, image,
                                  out_channels, result, fill);
            dw[(r0 + r) * taps.y + s0 + s] = total;
        }
}
