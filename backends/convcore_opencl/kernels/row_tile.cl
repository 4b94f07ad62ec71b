/*
 * Purpose
 *   Correlation with a tile of neighbouring pixels of one output channel kept in registers by each work-item: for
 *   depthwise and one-channel problems, where a tile of channels would be empty.
 *   It computes forward, and all phases of the stride of grad_input.
 *
 * Formula
 *   forward     out[n, k, i, j] = bias[k] + sum_{c,r,s} weight[k, c, r, s]
 *                   * in[n, c, i * STRIDE_H + r * DILATION_H - before.x, j * STRIDE_W + s * DILATION_W - before.y]
 *   grad_input  out[n, k, i * PHASES_H + a, j * PHASES_W + b] = bias[k] + sum_{c,r,s} weight[k, c, r, s]
 *                   * in[n, c, i + (a + before.x - r * DILATION_H) / PHASES_H, likewise]
 *               of the taps for which these are whole numbers
 *
 * Operands
 *   in      (N, channels, image.x, image.y)       in the layout of at()
 *   out     (N, out_channels, result.x, result.y) in the layout of at()
 *   weight  (out_channels, channels / groups, TAPS_H, TAPS_W) in row-major order, any steps between channels
 *   bias    one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   LANES            2 to 16  elements of a vector
 *   TILE_H, VECTORS  1 to 14  TILE_H * PHASES_W * VECTORS is the number of accumulators: at most 12 of the 16 vector
 *                             registers of AVX2, 24 of the 32 of AVX-512
 *
 * Blocking
 *   No __local memory, no barrier.  A tile has TILE_H by VECTORS * LANES pixels of each phase; with several, one row
 *   phase is computed after the other, and column phases are merged, so that whole vectors are stored.  The pixels
 *   under a tile are staged in private memory, where the boundary is resolved once for each, and columns are sorted by
 *   their phase in the stride, so that what a tap meets is contiguous: ROWS * STRIDE_W * PITCH elements.  Then for each
 *   tap: one broadcast weight, and for each accumulator one load and one multiply-add.
 *
 * The caller guarantees
 *   items = images * out_channels * tiles; more work-items do nothing.  depth is channels / groups.  One of PHASES and
 *   STRIDE is 1.  With SKIP_OUTSIDE (grad_input) fill is 0.
 *
 * Edges
 *   What lies outside is staged as the fill value.  With SKIP_OUTSIDE it does not exist: its zero is harmless but for
 *   an infinite or NaN weight, which is taken for zero there.
 *
 * Source
 *   Zhang, Lo and Lu, "High Performance Depthwise and Pointwise Convolutions on Mobile Devices" (AAAI 2020),
 *   section 3; here the pixels are staged first.
 */

#define TILE_W (VECTORS * LANES)
/* Rows and columns under a tile, and columns of one phase of the stride. */
#define SPAN(tile, taps, stride, dilation, phases)                                                                     \
    (((tile) - 1) * (stride) + (((taps) - 1) * (dilation) + (phases) - 1) / (phases) + 1)
#define ROWS SPAN(TILE_H, TAPS_H, STRIDE_H, DILATION_H, PHASES_H)
#define PITCH ((SPAN(TILE_W, TAPS_W, STRIDE_W, DILATION_W, PHASES_W) + STRIDE_W - 1) / STRIDE_W)

/* What accumulator (row, v) meets at a tap that reaches y rows and x columns beyond the first staged. */
#define PIXELS_UNDER(row, v, y, x) (*(private const loose *)&staged[(row) * STRIDE_H + (y)][(x) + (v) * LANES])

/* How far a phase of grad_input reaches, in pixels of `out`, from the first pixel of `in` that any tap meets. */
int reach(int taps, int dilation, int phases, int before) {
    const int last = (taps - 1) * dilation;
    return last - modulo(last - before, phases);
}

/* How far from the first row or column that is staged a tap meets its pixels, -1 if it does not reach a phase. */
int met(int tap, int dilation, int phase, int phases, int reached) {
#if SKIP_OUTSIDE
    const int distance = reached + phase - tap * dilation;
    return distance % phases ? -1 : distance / phases;
#else
    return tap * dilation;
#endif
}

/* Where the column at a distance is, sorted by the phase in the stride. */
#define SORTED(distance) ((distance) % STRIDE_W * PITCH + (distance) / STRIDE_W)

/* Store a vector of each column phase in turn, from column w on. */
void store_phases(global RESULT *line, vector sums[PHASES_W][VECTORS], int v, RESULT shift, int w, int width,
                  int step) {
#if PHASES_W == 1
    store(line + (long)w * step, sums[0][v] + shift, step, width - w);
#elif PHASES_W == 2 && LANES > 1
    const vector low = joined(sums[0][v].lo, sums[1][v].lo), high = joined(sums[0][v].hi, sums[1][v].hi);
    store(line + (long)w * step, MERGED(low) + shift, step, width - w);
    store(line + (long)(w + LANES) * step, MERGED(high) + shift, step, width - w - LANES);
#else
    for (int b = 0; b < PHASES_W; ++b) {
        RESULT lane[LANES];
        *(private loose *)lane = sums[b][v] + shift;
        for (int i = 0; i < LANES && w + i * PHASES_W + b < width; ++i)
            line[(long)(w + i * PHASES_W + b) * step] = lane[i];
    }
#endif
}

/* Add what every tap gives, multiplied by FACTOR(tap, row, v, y, x). */
#define ADD_PRODUCTS(FACTOR)                                                                                           \
    for (int r = 0; r < TAPS_H; ++r) {                                                                                 \
        const int y = met(r, DILATION_H, phase, PHASES_H, reached.x);                                                  \
        for (int s = 0; y >= 0 && s < TAPS_W; ++s) {                                                                   \
            const RESULT tap = taps[r * TAPS_W + s];                                                                   \
            _Pragma("unroll") for (int b = 0; b < PHASES_W; ++b) {                                                     \
                const int x = met(s, DILATION_W, b, PHASES_W, reached.y);                                              \
                if (x < 0) continue;                                                                                   \
                _Pragma("unroll") for (int row = 0; row < TILE_H; ++row)                                               \
                    _Pragma("unroll") for (int v = 0; v < VECTORS; ++v) sums[row][b][v] =                              \
                        multiply_add(sums[row][b][v], PIXELS_UNDER(row, v, y, SORTED(x)), FACTOR(tap, row, v, y, x));  \
            }                                                                                                          \
        }                                                                                                              \
    }
#define EVERYWHERE(tap, row, v, y, x) (tap)
#define INSIDE(tap, row, v, y, x) tap_inside(tap, top + (row) + (y), left + (x) + (v) * LANES, image)

/* A tap where it meets pixels (h, w), (h, w + 1), ... of an image, and zero where they do not exist. */
vector tap_inside(RESULT tap, int h, int w, int2 image) {
    const indices columns = counted(w);
    const indices exists = columns >= 0 && columns < (indices)image.y && (indices)(h >= 0 && h < image.x);
    return exists ? (vector)tap : (vector)0;
}

kernel void correlate(global const RESULT *in, long in0, global const RESULT *weight, long weight0,
                      global const RESULT *bias, long bias0, global RESULT *out, long out0, int channels, int2 image,
                      int out_channels, int2 result, int groups, int depth, long group_step, long out_step,
                      long depth_step, int2 before, RESULT fill, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int2 whole = (int2)(TILE_H * PHASES_H, TILE_W * PHASES_W), tiles = (result + whole - 1) / whole;
    const int j = item % tiles.y * TILE_W, i = item / tiles.y % tiles.x * TILE_H;
    const long image_channel = item / tiles.y / tiles.x;
    const int k = image_channel % out_channels, n = image_channel / out_channels;
    const int per_group = out_channels / groups, group = k / per_group;
    const int2 reached =
        (int2)(reach(TAPS_H, DILATION_H, PHASES_H, before.x), reach(TAPS_W, DILATION_W, PHASES_W, before.y));
#if SKIP_OUTSIDE
    const int top = i + (before.x - reached.x) / PHASES_H, left = j + (before.y - reached.y) / PHASES_W;
#else
    const int top = i * STRIDE_H - before.x, left = j * STRIDE_W - before.y;
#endif
    const RESULT shift = bias ? bias[bias0 + k] : 0;

    RESULT staged[ROWS][STRIDE_W * PITCH], scratch[STRIDE_W * PITCH];
    for (int phase = 0; phase < PHASES_H; ++phase) {
        vector sums[TILE_H][PHASES_W][VECTORS];
#pragma unroll
        for (int row = 0; row < TILE_H; ++row)
#pragma unroll
            for (int b = 0; b < PHASES_W; ++b)
#pragma unroll
                for (int v = 0; v < VECTORS; ++v) sums[row][b][v] = 0;

        for (int c = 0; c < depth; ++c) {
            for (int row = 0; (phase == 0 || depth > 1) && row < ROWS; ++row) {
                const int h = source(top + row, image.x);
                global const RESULT *line = in + in0 + at(n, group * depth + c, MAX(h, 0), 0, channels, image);
                stage_sorted(staged[row], scratch, PITCH, line, COLUMN_STEP(channels), left, h, image.y, fill);
            }
            global const RESULT *taps =
                weight + weight0 + group * group_step + k % per_group * out_step + c * depth_step;
            RESULT zero = 0;
#if SKIP_OUTSIDE
            for (int tap = 0; tap < TAPS_H * TAPS_W; ++tap) zero += 0 * taps[tap];
#endif
            if (zero == 0) {
                ADD_PRODUCTS(EVERYWHERE)
            } else {
                ADD_PRODUCTS(INSIDE)
            }
        }
#pragma unroll
        for (int row = 0; row < TILE_H; ++row) {
            const int h = (i + row) * PHASES_H + phase;
            if (h >= result.x) continue;
            global RESULT *line = out + out0 + at(n, k, h, 0, out_channels, result);
#pragma unroll
            for (int v = 0; v < VECTORS; ++v)
                store_phases(line, sums[row], v, shift, (j + v * LANES) * PHASES_W, result.y,
                             COLUMN_STEP(out_channels));
        }
    }
}
