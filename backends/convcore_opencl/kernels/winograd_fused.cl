/*
 * Purpose
 *   Winograd's minimal correlation F(2 x 2, 3 x 3) in one kernel, for discrete GPUs: points of tiles and their products
 *   never leave the chip.  forward and grad_input.
 *
 * Formula
 *   y tile = A^T [sum_c (G w G^T) (B^T x B)] A, the points G w G^T computed before by winograd.cl
 *
 * Operands
 *   in      (N, channels, image.x, image.y)       in the layout of at()
 *   out     (N, out_channels, result.x, result.y) in the layout of at()
 *   points  [16][out_channels][channels], of the weight
 *   weight  3 x 3 taps for each pair of channels, that of row k and term c at k * row_step + c * term_step;
 *           with REVERSED (grad_input) their order is reversed
 *   bias    one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 *   index map of work-item id = 16 * point + 4 * my + mx in its group: for its point the results
 *     row    = q_m * 16 + my * 4 + i   of 32 output channels,    q_m, q_n in 0, 1,  i, j in 0 .. 3
 *     column = q_n * 16 + mx * 4 + j   of 32 tiles
 *   and in the transforms tile id % 32 of channel id / 32.
 *
 * Tunables
 *   None: 256 work-items with 64 accumulators each, 2 * 16 * CHANNELS * PITCH elements of __local memory: 36 KB.
 *
 * Blocking
 *   For CHANNELS channels at a time: each work-item transforms one tile of one of them and brings a part of the
 * weight's points; then each multiplies for its point.  In the end the points of 8 output channels at a time are
 * exchanged.
 *
 * The caller guarantees
 *   one work-group of 256 for each block of 32 tiles and block of 32 output channels.
 *
 * Edges
 *   Pixels are looked up one by one, the fill value outside.  Tiles and channels beyond the last count as zeros and are
 * not stored.  A result that is not finite is computed again, as the formula has it.
 *
 * Source
 *   Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 5.
 */

#define BLOCK 32
#define CHANNELS 8
#define PITCH (BLOCK + 4)
#define POINT (get_local_id(0) / 16)
#define ROW_OF(i) ((i) / 4 * 16 + get_local_id(0) / 4 % 4 * 4 + (i) % 4)
#define COLUMN_OF(j) ((j) / 4 * 16 + get_local_id(0) % 4 * 4 + (j) % 4)

kernel __attribute__((reqd_work_group_size(256, 1, 1))) void
fused(global const RESULT *in, long in0, global const RESULT *points, long points0, global const RESULT *weight,
      long weight0, global const RESULT *bias, long bias0, global RESULT *out, long out0, int images, int channels,
      int2 image, int out_channels, int2 result, int2 tiles, int2 before, long row_step, long term_step, RESULT fill) {
    local RESULT v[POINTS * CHANNELS * PITCH], u[POINTS * CHANNELS * PITCH];
    const int id = get_local_id(0), all = images * tiles.x * tiles.y, blocks = (all + BLOCK - 1) / BLOCK;
    const int first_tile = get_group_id(0) % blocks * BLOCK, first_row = get_group_id(0) / blocks * BLOCK;
    const int tile = first_tile + id % BLOCK, n = tile / tiles.y / tiles.x;
    const int p0 = tile / tiles.y % tiles.x * TILE, q0 = tile % tiles.y * TILE;
    in += in0 + IMAGE_AT(n, channels, image);
    points += points0;
    RESULT sums[8][8];
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = 0;

    for (int c0 = 0; c0 < channels; c0 += CHANNELS) {
        RESULT square[POINTS];
        const int c = c0 + id / BLOCK;
#pragma unroll
        for (int pixel = 0; pixel < POINTS; ++pixel) {
            const int h = source(p0 - before.x + pixel / N, image.x), w = source(q0 - before.y + pixel % N, image.y);
            square[pixel] = fill;
            if (c >= channels || tile >= all) square[pixel] = 0;
            else if (h >= 0 && w >= 0)
                square[pixel] = in[c * PLANE(image) + ((long)h * image.y + w) * COLUMN_STEP(channels)];
        }
        TRANSFORM(square, pixels_to_points, N, N);
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (int point = 0; point < POINTS; ++point)
            v[(point * CHANNELS + id / BLOCK) * PITCH + id % BLOCK] = square[point];
#pragma unroll 4
        for (int i = 0; i < POINTS; ++i) {
            /* Neighbours bring neighbouring channels, which lie side by side. */
            const int term = c0 + id % CHANNELS, row = first_row + id / CHANNELS;
            const bool exists = term < channels && row < out_channels;
            u[(i * CHANNELS + id % CHANNELS) * PITCH + id / CHANNELS] =
                exists ? points[((long)i * out_channels + row) * channels + term] : 0;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll 1
        for (int k = 0; k < CHANNELS; ++k) {
            RESULT rows[8], columns[8];
#pragma unroll
            for (int i = 0; i < 8; ++i) {
                rows[i] = u[(POINT * CHANNELS + k) * PITCH + ROW_OF(i)];
                columns[i] = v[(POINT * CHANNELS + k) * PITCH + COLUMN_OF(i)];
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 8; ++j) sums[i][j] += rows[i] * columns[j];
        }
    }

    /* v has room for the points of 8 rows: [POINTS][8][PITCH]. */
    for (int pass = 0; pass < BLOCK / 8; ++pass) {
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (ROW_OF(i) / 8 != pass) continue;
#pragma unroll
            for (int j = 0; j < 8; ++j) v[(POINT * 8 + ROW_OF(i) % 8) * PITCH + COLUMN_OF(j)] = sums[i][j];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        const int k = first_row + pass * 8 + id / BLOCK;
        RESULT square[POINTS];
#pragma unroll
        for (int point = 0; point < POINTS; ++point) square[point] = v[(point * 8 + id / BLOCK) * PITCH + id % BLOCK];
        TRANSFORM(square, points_to_results, N, TILE);
        if (tile >= all || k >= out_channels) continue;
        const RESULT shift = bias ? bias[bias0 + k] : 0;
#pragma unroll
        for (int a = 0; a < TILE; ++a)
#pragma unroll
            for (int b = 0; b < TILE; ++b) {
                const int p = p0 + a, q = q0 + b;
                if (p >= result.x || q >= result.y) continue;
                RESULT value = square[a * N + b] + shift;
                if (value * 0 != 0)
                    value = shift + looked_up(in, weight + weight0 + k * row_step, channels, image, p - before.x,
                                              q - before.y, term_step, fill);
                out[out0 + at(n, k, p, q, out_channels, result)] = value;
            }
    }
}
