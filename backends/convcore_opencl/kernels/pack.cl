/*
 * Purpose
 *   The weight in the order in which a tile of BLOCK output channels reads it.
 *
 * Formula
 *   packed[group][k / BLOCK][c][r][s][k % BLOCK] = weight[group * group_step + k * out_step + c * depth_step
 *                                                         + tap (first_tap + (r, s) * tap_step)]
 *
 * Operands
 *   weight  row-major, with (taps.x, taps.y) taps; which channel is read and which is written the steps say
 *   packed  [groups][blocks][depth][TAPS_H][TAPS_W][BLOCK], the last block of a group filled up with zeros
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   BLOCK  1 to 128  output channels of a tile
 *
 * Blocking
 *   None: all taps of one channel and block per work-item, so that finding its place costs little.
 *
 * The caller guarantees
 *   items = groups * blocks * depth, at most 2^31 - 1; more work-items do nothing.
 */

kernel void pack(global const RESULT *weight, long weight0, global RESULT *packed, long packed0, long items,
                 int out_per_group, int depth, int2 taps, long group_step, long out_step, long depth_step,
                 int2 first_tap, int2 tap_step) {
    const int item = get_global_id(0);
    if (item >= items) return;
    const int c = item % depth, blocks = (out_per_group + BLOCK - 1) / BLOCK;
    const int group = item / depth / blocks, first = item / depth % blocks * BLOCK;
    const int rows = MIN(out_per_group - first, BLOCK);
    weight += weight0 + group * group_step + first * out_step + c * depth_step;
    packed += packed0 + (long)item * TAPS_H * TAPS_W * BLOCK;
    for (int r = 0; r < TAPS_H; ++r)
        for (int s = 0; s < TAPS_W; ++s, packed += BLOCK) {
            global const RESULT *tap =
                weight + (long)(first_tap.x + r * tap_step.x) * taps.y + first_tap.y + s * tap_step.y;
            for (int row = 0; row < rows; ++row) packed[row] = tap[row * out_step];
            for (int row = rows; row < BLOCK; ++row) packed[row] = 0;
        }
}
