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
 *   None: BLOCK elements of the copy per work-item.
 *
 * The caller guarantees
 *   items = groups * blocks * depth * TAPS_H * TAPS_W; more work-items do nothing.
 */

kernel void pack(global const RESULT *weight, long weight0, global RESULT *packed, long packed0, long items,
                 int out_per_group, int depth, int2 taps, long group_step, long out_step, long depth_step,
                 int2 first_tap, int2 tap_step) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int s = item % TAPS_W, r = item / TAPS_W % TAPS_H;
    const long block_channel = item / (TAPS_W * TAPS_H);
    const int c = block_channel % depth, blocks = (out_per_group + BLOCK - 1) / BLOCK;
    const int group = block_channel / depth / blocks, k = block_channel / depth % blocks * BLOCK;
    const long tap = (long)(first_tap.x + r * tap_step.x) * taps.y + first_tap.y + s * tap_step.y;
    weight += weight0 + group * group_step + k * out_step + c * depth_step + tap;
    packed += packed0 + item * BLOCK;
    for (int row = 0; row < BLOCK; ++row) packed[row] = k + row < out_per_group ? weight[row * out_step] : 0;
}
