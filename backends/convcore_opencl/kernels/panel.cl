/*
 * Purpose
 *   Implicit GEMM for CPU drivers: a panel of what lies under VECTORS * LANES neighbouring results is staged once, then
 *   multiplied by one row after the other, ROWS of them at a time in registers.
 *   correlate computes forward, and grad_input as one dense correlation for each phase of the stride;
 *   grad_weight sums over pixels what correlate sums over channels and taps.
 *
 * Formula
 *   correlate    out[n, k, first + step * (i, j)] = bias[k] + sum_l weight[k, l] * in[n, c, h(i, r), w(j, s)]
 *   grad_weight  dw[k, l] = sum_{n,i,j} g[n, k, i, j] * x[n, c, h(i, r), w(j, s)]
 *   with l = (c * TAPS_H + r) * TAPS_W + s, h = i * STRIDE_H + r * DILATION_H - before.x, and w likewise.
 *
 * Operands
 *   in, x   (N, channels, image.x, image.y)       in the layout of at()
 *   out     (N, out_channels, result.x, result.y) in the layout of at(); written at the `grid` points only
 *   g       (N, out_channels, grid.x, grid.y)     in the layout of at()
 *   weight  element (group, row, l) is at weight_at + group * group_step + row / ROWS * tile_step
 *           + row % ROWS * row_step + l * reduction_step: the weight as it is, or pack.cl's copy of it
 *   dw      (chunks, out_channels, channels / groups, TAPS_H, TAPS_W) in row-major order; a chunk is `segments` of the
 *           images * ceil(pixels / STAGED) segments of the reduction
 *   bias    one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   LANES          2 to 16   elements of a vector
 *   ROWS, VECTORS  1 to 14   ROWS * VECTORS accumulators, VECTORS loads and a broadcast should fit the vector
 *                            registers: 12 accumulators with the 16 registers of AVX2, 24 with the 32 of AVX-512
 *   STAGED         LANES to  vectors of a column of the panel staged at a time, a multiple of LANES:
 *                  1024      STAGED * VECTORS vectors should stay in the first-level cache
 *   ROW_STEP       0 to 1024 row_step, where all rows of all tiles are there; 0 leaves it to the argument
 *   SHIFTED        0, 1      whether a tile that reaches beyond the last row begins earlier; there are ROWS at least
 *
 * Blocking
 *   No __local memory, no barrier; staged[STAGED][VECTORS] is private.  For each of its rows and each row of the
 *   tile: one broadcast, VECTORS multiply-adds.  Where the reduction is longer than STAGED, sums wait in the result.
 *
 * The caller guarantees
 *   items = images * groups * panels * parts (grad_weight: chunks instead of images), a part being `part` rows, a
 * multiple of ROWS; more work-items do nothing.  depth is channels / groups, or 0 for a phase of the stride that no tap
 *   reaches, which leaves the bias alone.  A channel has at most 2^31 - 1 elements.  With SKIP_OUTSIDE fill is 0.
 *
 * Edges
 *   Runs of pixels inside a row are copied by vectors, others looked up one by one; the fill value stands outside.
 *   With SKIP_OUTSIDE (grad_input) what is outside does not exist: its zero times an infinite weight is NaN, so a
 *   result that is NaN is computed again, without such products.
 *
 * Source
 *   Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication" (2008), section 4, with the packing of
 *   the image as in Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning" (2014), section 3.
 */

/* Add up what `length` rows of the panel and ROWS rows of the other operand give. */
tile multiplied(private const vector *staged, global const RESULT *a, int row_step, int last_row, long reduction_step,
                int length) {
    tile sums;
    row_set rows = rows_at(a, row_step, last_row);
#pragma unroll
    for (int row = 0; row < ROWS; ++row)
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) sums.at[row][v] = 0;
    for (int l = 0; l < length; ++l) {
#pragma unroll
        for (int row = 0; row < ROWS; ++row) {
            const RESULT factor = *OF_ROW(a, rows, row, 0);
#pragma unroll
            for (int v = 0; v < VECTORS; ++v)
                sums.at[row][v] = multiply_add(sums.at[row][v], staged[l * VECTORS + v], factor);
        }
        ADVANCE(a, rows, reduction_step);
    }
    return sums;
}

/* Whether vectors are read with the stride, and one of them: every STRIDE_W-th element, and none beyond the last. */
#define STEPS (STRIDE_W == 1 || (STRIDE_W == 2 && LANES > 1))
vector stepping(global const RESULT *from) {
    const vector low = *(global const loose *)from;
#if STRIDE_W == 2 && LANES > 1
    const vector high = *(global const loose *)(from + LANES - 1);
    return joined(low.even, high.odd);
#else
    return low;
#endif
}

/* Stage the rows [from, to) of the panel under PANEL results, whose first pixels are at (top, left). */
void stage_panel(private RESULT *staged, global const RESULT *in, int from, int to, int channels, int2 image,
                 int2 before, private const int *top, private const int *left, int count, RESULT fill) {
    const int column_step = COLUMN_STEP(channels);
    const long plane = PLANE(image);
    const int there = MIN(count, PANEL);
    /* Whether the first pixels are side by side: in one row, or in rows as long as the image's. */
    const int down = top[there - 1] - top[0];
    const bool run = STRIDE_W == 1 && (STRIDE_H == 1 || down == 0) && column_step == 1 &&
                     down * image.y + left[there - 1] - left[0] == there - 1;
    for (int tap = 0; tap < TAPS; ++tap) {
        const int r = tap / TAPS_W * DILATION_H, s = tap % TAPS_W * DILATION_W;
        int l = (from - tap + TAPS - 1) / TAPS * TAPS + tap;
      private
        RESULT *row = staged + (l - from) * PANEL;
        const int h0 = source(top[0] + r, image.x), w0 = left[0] + s;
        global const RESULT *line = in + l / TAPS * plane;
        const bool inside = down == 0 ? h0 >= 0 && w0 >= 0 && w0 + there <= image.y
                                      : s == before.y && top[0] + r >= 0 && top[there - 1] + r < image.x;
        if (run && inside) {
            line += (long)h0 * image.y + w0;
            for (; l < to; l += TAPS, line += plane, row += TAPS * PANEL)
#pragma unroll
                for (int v = 0; v < VECTORS; ++v)
                    if ((v + 1) * LANES <= there)
                        *(private vector *)(row + v * LANES) = *(global const loose *)(line + v * LANES);
                    else
                        for (int lane = v * LANES; lane < (v + 1) * LANES; ++lane)
                            row[lane] = lane < there ? line[lane] : fill;
            continue;
        }
        int index[PANEL];
        for (int lane = 0; lane < PANEL; ++lane) {
            const int h = source(top[lane] + r, image.x), w = source(left[lane] + s, image.y);
            index[lane] = h < 0 || w < 0 || lane >= count ? -1 : (h * image.y + w) * column_step;
        }
        bool whole[VECTORS], some = false;
        for (int v = 0; v < VECTORS; ++v) {
            const int a = v * LANES, b = a + LANES - 1;
            whole[v] = STEPS && column_step == 1 && index[a] >= 0 && index[b] >= 0 && top[a] == top[b] &&
                       left[a] + s >= 0 && left[b] + s < image.y;
            some = some || whole[v];
        }
        for (; l < to; l += TAPS, line += plane, row += TAPS * PANEL) {
            /* Not behind a condition, so that the pixels can be gathered. */
            for (int lane = 0; !some && lane < PANEL; ++lane) {
                const RESULT pixel = line[MAX(index[lane], 0)];
                row[lane] = index[lane] < 0 ? fill : pixel;
            }
#pragma unroll
            for (int v = 0; some && v < VECTORS; ++v)
                if (whole[v]) *(private vector *)(row + v * LANES) = stepping(line + index[v * LANES]);
                else
                    for (int lane = v * LANES; lane < (v + 1) * LANES; ++lane)
                        row[lane] = index[lane] < 0 ? fill : line[index[lane]];
        }
    }
}

kernel void correlate(global const RESULT *in, long in0, global const RESULT *weight, long weight0,
                      global const RESULT *bias, long bias0, global RESULT *out, long out0, int channels, int2 image,
                      int out_channels, int2 result, int groups, int depth, int2 before, int2 grid, int2 step,
                      int2 first, RESULT fill, long weight_at, long group_step, long tile_step, int row_step,
                      long reduction_step, int parts, int part, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int pixels = grid.x * grid.y, panels = (pixels + PANEL - 1) / PANEL;
    const int first_pixel = item / parts % panels * PANEL;
    const long image_group = item / parts / panels;
    const int group = image_group % groups, n = image_group / groups;
    const int per_group = out_channels / groups, count = pixels - first_pixel;
    const int from_k = item % parts * part, to_k = MIN(from_k + part, per_group);
    in += in0 + IMAGE_AT(n, channels, image) + group * depth * PLANE(image);
    weight += weight0 + weight_at + group * group_step;

    int top[PANEL], left[PANEL], where[PANEL];
    for (int lane = 0, i = first_pixel / grid.y, j = first_pixel % grid.y; lane < PANEL; ++lane) {
        top[lane] = i * STRIDE_H - before.x, left[lane] = j * STRIDE_W - before.y;
        const int to = ((first.x + i * step.x) * result.y + first.y + j * step.y) * COLUMN_STEP(out_channels);
        where[lane] = lane < count ? to : -1;
        if (++j == grid.y) j = 0, ++i;
    }
    const int length = depth * TAPS;
    vector staged[STAGED * VECTORS];
    for (int from = 0; from == 0 || from < length; from += STAGED) {
        const int to = MIN(from + STAGED, length);
        stage_panel((private RESULT *)staged, in, from, to, channels, image, before, top, left, count, fill);
        for (int k = from_k; k < to_k; k += ROWS) {
            const int back = BACK(k, per_group);
            global const RESULT *a = weight + k / ROWS * tile_step - (long)back * row_step;
            tile sums =
                multiplied(staged, a + from * reduction_step, row_step, to_k - 1 - k, reduction_step, to - from);
#pragma unroll
            for (int row = 0; row < ROWS; ++row) {
                if (row < back || k - back + row >= to_k) continue;
                const int channel = group * per_group + k - back + row;
                global RESULT *line = out + out0 + IMAGE_AT(n, out_channels, result) + channel * PLANE(result);
                const RESULT shift = bias ? bias[bias0 + channel] : 0;
                const bool nan = put(sums.at[row], line, where, from > 0, shift);
#if SKIP_OUTSIDE
                if (!nan || to < length) continue;
                for (int lane = 0; lane < PANEL; ++lane)
                    if (where[lane] >= 0 && line[where[lane]] != line[where[lane]])
                        line[where[lane]] =
                            shift + looked_up(in, a + row * row_step, channels, image, depth, TAPS * reduction_step,
                                              (int2)(TAPS_W, 1) * (int)reduction_step, top[lane], left[lane]);
#endif
            }
        }
    }
}

/* Turn the rows of a square into its columns.  Each round moves the last bit of (row, column) to the front. */
#define ROUNDS (LANES == 2 ? 1 : LANES == 4 ? 2 : LANES == 8 ? 3 : 4)
void transpose(private vector *a) {
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        vector b[LANES];
#pragma unroll
        for (int i = 0; i < LANES / 2; ++i) {
            b[i] = joined(a[2 * i].even, a[2 * i + 1].even);
            b[i + LANES / 2] = joined(a[2 * i].odd, a[2 * i + 1].odd);
        }
#pragma unroll
        for (int i = 0; i < LANES; ++i) a[i] = b[i];
    }
}

/* What tap and channel l meets at LANES results, whose first pixels are at (top, left). */
vector under(global const RESULT *x, int l, private const int *top, private const int *left, int count, int channels,
             int2 image, RESULT fill) {
    const int r = l / TAPS_W % TAPS_H * DILATION_H, s = l % TAPS_W * DILATION_W;
    const int column_step = COLUMN_STEP(channels);
    global const RESULT *plane = x + l / TAPS * PLANE(image);
    const int h0 = source(top[0] + r, image.x), w0 = left[0] + s;
    const bool run = STRIDE_W == 1 && column_step == 1 && top[0] == top[LANES - 1];
    if (run && h0 >= 0 && w0 >= 0 && w0 + LANES <= image.y)
        return *(global const loose *)(plane + (long)h0 * image.y + w0);
    union {
        vector all;
        RESULT lane[LANES];
    } pixels;
    for (int lane = 0; lane < LANES; ++lane) {
        const int h = source(top[lane] + r, image.x), w = source(left[lane] + s, image.y);
        const bool outside = (h < 0) | (w < 0) | (lane >= count);
        const RESULT pixel = plane[outside ? 0 : (h * image.y + w) * column_step];
        pixels.lane[lane] = outside ? fill : pixel;
    }
    return pixels.all;
}

kernel void grad_weight(global const RESULT *x, long x0, global const RESULT *g, long g0, global RESULT *dw, long dw0,
                        int channels, int2 image, int out_channels, int2 grid, int groups, int2 before, RESULT fill,
                        int parts, int part, long items, long all_segments, long segments) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int depth = channels / groups, per_group = out_channels / groups, length = depth * TAPS;
    const int panels = (length + PANEL - 1) / PANEL, pixels = grid.x * grid.y;
    const int in_image = (pixels + STAGED - 1) / STAGED;
    const int first = item / parts % panels * PANEL, group = item / parts / panels % groups;
    const long chunk = item / parts / panels / groups;
    const int from_k = item % parts * part, to_k = MIN(from_k + part, per_group);
    const int row_step = NHWC ? 1 : pixels, reduction_step = NHWC ? out_channels : 1;
    x += x0 + group * depth * PLANE(image);
    g += g0 + group * per_group * PLANE(grid);
    dw += dw0 + ((chunk * groups + group) * per_group) * length + first;
    int where[PANEL];
    for (int lane = 0; lane < PANEL; ++lane) where[lane] = first + lane < length ? lane : -1;

    vector staged[STAGED * VECTORS];
    const long begin = chunk * segments;
    for (long segment = begin; segment == begin || segment < MIN(begin + segments, all_segments); ++segment) {
        const int n = segment / MAX(in_image, 1), from = segment % MAX(in_image, 1) * STAGED;
        const int to = segment < all_segments ? MIN(from + STAGED, pixels) : from;
        for (int pixel = from; pixel < to; pixel += LANES) {
            int top[LANES], left[LANES];
            for (int lane = 0, i = pixel / grid.y, j = pixel % grid.y; lane < LANES; ++lane) {
                top[lane] = i * STRIDE_H - before.x, left[lane] = j * STRIDE_W - before.y;
                if (++j == grid.y) j = 0, ++i;
            }
#pragma unroll
            for (int v = 0; v < VECTORS; ++v) {
                vector square[LANES];
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane)
                    square[lane] = under(x + IMAGE_AT(n, channels, image), MIN(first + v * LANES + lane, length - 1),
                                         top, left, to - pixel, channels, image, fill);
                transpose(square);
#pragma unroll
                for (int lane = 0; lane < LANES; ++lane) staged[(pixel - from + lane) * VECTORS + v] = square[lane];
            }
        }
        for (int k = from_k; k < to_k; k += ROWS) {
            const int back = BACK(k, per_group);
            global const RESULT *a = g + IMAGE_AT(n, out_channels, grid) + (long)(k - back) * row_step;
            tile sums =
                multiplied(staged, a + (long)from * reduction_step, row_step, to_k - 1 - k, reduction_step, to - from);
#pragma unroll
            for (int row = 0; row < ROWS; ++row)
                if (row >= back && k - back + row < to_k)
                    put(sums.at[row], dw + (long)(k - back + row) * length, where, segment > begin, 0);
        }
    }
}
