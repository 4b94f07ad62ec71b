/*
 * Purpose
 *   Dense correlations with stride 1 on CPU drivers: like panel.cl, but of the pixels under neighbouring results each
 * is staged once, and not once for every tap.  forward, and grad_input as one correlation for each phase of the stride.
 *
 * Formula
 *   out[n, k, first + step * (i, j)] = bias[k] + sum_l weight[k, l] * in[n, c, h(i, r), w(j, s)]
 *   with l = (c * TAPS_H + r) * TAPS_W + s, h = i + r * DILATION_H - before.x, w = j + s * DILATION_W - before.y.
 *
 * Operands
 *   in, out, bias   as in panel.cl
 *   weight  element (group, row, c, r, s) is at weight_at + group * group_step + row / ROWS * tile_step
 *           + row % ROWS * row_step + c * depth_step + (r, s) * tap_step: the weight as it is, one tap after the other
 *           in forward
 *   strip[channel][position]: the rows of the image under the results, each with its padding, one after the other; a
 * row is grid.y + (TAPS_W - 1) * DILATION_W = pitch positions long, so what tap (r, s) meets is always r * DILATION_H *
 * pitch + s * DILATION_W positions behind what tap (0, 0) meets
 *
 * Tunables
 *   LANES, ROWS, VECTORS, ROW_STEP, SHIFTED as in panel.cl
 *   CAPACITY  1024 to 16384  elements of the strips of those channels that are staged at a time; one must fit
 *
 * Blocking
 *   No __local memory, no barrier.  Lanes are neighbouring positions; those in the padding at the end of a row are
 * computed and not stored: (TAPS_W - 1) * DILATION_W of pitch.  For each tap and channel: VECTORS loads that may start
 * anywhere, ROWS broadcasts, ROWS * VECTORS multiply-adds.
 *
 * The caller guarantees
 *   what panel.cl's does, with panels of grid.x * pitch positions, and STRIDE_H = STRIDE_W = 1.
 *
 * Edges
 *   The fill value stands outside.  With SKIP_OUTSIDE (grad_input) a result that is NaN is computed again.
 *
 * Source
 *   panel.cl; the padding between rows follows Vasudevan, Anderson and Gregg, "Parallel Multi Channel Convolution using
 *   General Matrix Multiplication" (2017), section 4.
 */

/* From one tap to the next, and what more it is at the end of a row of taps and of a channel. */
#define NEXT_TAP (SKIP_OUTSIDE ? tap_step.y : 1)
#define NEXT_LINE (SKIP_OUTSIDE ? tap_step.x - TAPS_W * tap_step.y : 0)
#define NEXT_CHANNEL (SKIP_OUTSIDE ? depth_step - TAPS_H * tap_step.x : 0)

/* Have the rows' taps in channels to come brought into the cache, where they jump from channel to channel. */
#if ROW_STEP
#define SOON(a)                                                                                                        \
    for (int at = 0; at < ROWS * ROW_STEP; at += 64 / sizeof(RESULT)) PREFETCH((a) + 2 * depth_step + at)
#else
#define SOON(a)
#endif

/* Bring the positions [from, from + count) of one channel. */
void fill_strip(private RESULT *strip, global const RESULT *plane, int from, int count, int pitch, int column_step,
                int2 image, int2 before, RESULT fill) {
    for (int i = from / pitch, j = from % pitch; count > 0; ++i, j = 0) {
        const int run = MIN(pitch - j, count), h = source(i - before.x, image.x);
        global const RESULT *line = plane + (long)MAX(h, 0) * image.y * column_step;
        stage(strip, run, line, column_step, j - before.y, h, image.y, fill);
        strip += run, count -= run;
    }
}

/* Add up what the strips of some channels and ROWS rows of the weight give. */
tile multiplied(private const RESULT *strip, int strip_step, int row_pitch, int channels, global const RESULT *a,
                int row_step, int last_row, long depth_step, int2 tap_step) {
    tile sums;
    row_set rows = rows_at(a, row_step, last_row);
#pragma unroll
    for (int row = 0; row < ROWS; ++row)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) sums.at[row][v] = 0;
    for (int c = 0; c < channels; ++c, strip += strip_step) {
        SOON(a);
        for (int r = 0; r < TAPS_H; ++r) {
            for (int s = 0; s < TAPS_W; ++s) {
              private
                const RESULT *from = strip + r * row_pitch + s * DILATION_W;
                vector pixels[VECTORS];
#pragma unroll
                for (int v = 0; v < VECTORS; ++v) pixels[v] = *(private const loose *)(from + v * LANES);
#pragma unroll
                for (int row = 0; row < ROWS; ++row) {
                    const RESULT factor = *OF_ROW(a, rows, row, 0);
#pragma unroll
                    for (int v = 0; v < VECTORS; ++v)
                        sums.at[row][v] = multiply_add(sums.at[row][v], pixels[v], factor);
                }
                ADVANCE(a, rows, NEXT_TAP);
            }
            ADVANCE(a, rows, NEXT_LINE);
        }
        ADVANCE(a, rows, NEXT_CHANNEL);
    }
    return sums;
}

kernel void correlate(global const RESULT *in, long in0, global const RESULT *weight, long weight0,
                      global const RESULT *bias, long bias0, global RESULT *out, long out0, int channels, int2 image,
                      int out_channels, int2 result, int groups, int depth, int2 before, int2 grid, int2 step,
                      int2 first, RESULT fill, long weight_at, long group_step, long tile_step, int row_step,
                      long depth_step, int2 tap_step, int parts, int part, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int pitch = grid.y + (TAPS_W - 1) * DILATION_W, panels = (grid.x * pitch + PANEL - 1) / PANEL;
    const int row_pitch = DILATION_H * pitch;
    const int strip_step = PANEL + (TAPS_H - 1) * row_pitch + (TAPS_W - 1) * DILATION_W;
    const int at_once = CAPACITY / strip_step;
    const int first_position = item / parts % panels * PANEL;
    const long image_group = item / parts / panels;
    const int group = image_group % groups, n = image_group / groups;
    const int per_group = out_channels / groups;
    const int from_k = item % parts * part, to_k = MIN(from_k + part, per_group);
    in += in0 + IMAGE_AT(n, channels, image) + group * depth * PLANE(image);
    weight += weight0 + weight_at + group * group_step;

    int where[PANEL];
    for (int lane = 0, i = first_position / pitch, j = first_position % pitch; lane < PANEL; ++lane) {
        const int to = ((first.x + i * step.x) * result.y + first.y + j * step.y) * COLUMN_STEP(out_channels);
        where[lane] = i < grid.x && j < grid.y ? to : -1;
        if (++j == pitch) j = 0, ++i;
    }
    RESULT strip[CAPACITY];
    for (int c0 = 0; c0 == 0 || c0 < depth; c0 += at_once) {
        const int c1 = MIN(c0 + at_once, depth);
        for (int c = c0; c < c1; ++c)
            fill_strip(strip + (c - c0) * strip_step, in + c * PLANE(image), first_position, strip_step, pitch,
                       COLUMN_STEP(channels), image, before, fill);
        for (int k = from_k; k < to_k; k += ROWS) {
            const int back = BACK(k, per_group);
            global const RESULT *a = weight + k / ROWS * tile_step - (long)back * row_step;
            tile sums = multiplied(strip, strip_step, row_pitch, c1 - c0, a + c0 * depth_step, row_step, to_k - 1 - k,
                                   depth_step, tap_step);
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                if (row < back || k - back + row >= to_k) continue;
                const int channel = group * per_group + k - back + row;
                global RESULT *line = out + out0 + IMAGE_AT(n, out_channels, result) + channel * PLANE(result);
                const RESULT shift = bias ? bias[bias0 + channel] : 0;
                const bool nan = put(sums.at[row], line, where, c0 > 0, shift);
#if SKIP_OUTSIDE
                if (!nan || c1 < depth) continue;
                for (int lane = 0; lane < PANEL; ++lane) {
                    const int position = first_position + lane;
                    if (where[lane] >= 0 && line[where[lane]] != line[where[lane]])
                        line[where[lane]] =
                            shift + looked_up(in, a + row * row_step, channels, image, depth, depth_step, tap_step,
                                              position / pitch - before.x, position % pitch - before.y);
                }
#endif
            }
        }
    }
}
