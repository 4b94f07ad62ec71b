/*
 * Purpose
 *   The formula and its two gradients as they are written, one result element per work-item:
 *   right for every geometry and every dtype, and the family to check the others against.
 *
 * Formula
 *   forward      y[n,k,p,q]  = bias[k] + sum_{c,r,s} x[n,c,h,w] * weight[k,c,r,s]
 *   grad_input   dx[n,c,h,w] = bias[c] + sum_{k,r,s} g[n,k,p,q] * weight[k,c,r,s]
 *   grad_weight  dw[k,c,r,s] = sum_{n,p,q} x[n,c,h,w] * g[n,k,p,q]
 *   with h = p * stride.x + r * dilation.x - before.x, and w likewise with .y.
 *   fold         dx[n,c,h,w] += what grad_input gives at the positions of the padding that stand for (h, w)
 *
 * Operands
 *   x and dx (N, channels, image.x, image.y), y and g (N, out_channels, result.x, result.y),
 *   both in the layout of at(); weight and dw (out_channels, channels / groups, taps.x, taps.y)
 *   in row-major order; bias one value per result channel, or NULL.
 *   The number after a buffer is where its first element is.
 *
 * Blocking
 *   None: one accumulator of type RESULT, no __local memory.  grad_weight splits the N * P rows of
 *   the reduction into chunks of `rows` rows; each chunk has its own copy of the result.
 *
 * The caller guarantees
 *   items = number of result elements (times chunks); more work-items than that do nothing.
 *   Every extent fits an int, every index a long.
 *
 * Edges
 *   forward and grad_weight multiply the fill value like any pixel, so 0 * NaN stays NaN;
 *   in grad_input what lies outside y does not exist and is skipped.  Where the padding holds pixels of the
 *   image, a pixel gathers the gradient of each position it stands at, in a fixed order: no atomics.
 */

#define GEOMETRY                                                                                                       \
    int channels, int2 image, int out_channels, int2 result, int groups, int2 taps, int2 stride, int2 dilation,        \
        int2 before

kernel void forward(global const FIRST *x, long x0, global const SECOND *weight, long weight0,
                    global const RESULT *bias, long bias0, global RESULT *y, long y0, GEOMETRY, RESULT fill,
                    long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int q = item % result.y, p = item / result.y % result.x;
    const long image_channel = item / result.y / result.x;
    const int k = image_channel % out_channels, n = image_channel / out_channels;
    const int per_group = channels / groups;
    const int first = k / (out_channels / groups) * per_group;

    global const SECOND *tap = weight + weight0 + (long)k * per_group * taps.x * taps.y;
    RESULT sum = 0;
    for (int c = first; c < first + per_group; ++c)
        for (int r = 0; r < taps.x; ++r) {
            const int h = source(p * stride.x + r * dilation.x - before.x, image.x);
            for (int s = 0; s < taps.y; ++s) {
                const int w = source(q * stride.y + s * dilation.y - before.y, image.y);
                const RESULT pixel = (h < 0 || w < 0) ? fill : (RESULT)x[x0 + at(n, c, h, w, channels, image)];
                sum += pixel * (RESULT)*tap++;
            }
        }
    y[y0 + at(n, k, p, q, out_channels, result)] = bias ? sum + bias[bias0 + k] : sum;
}

/* The output position that reads input position `i` with a tap `offset` away; -1 if there is none. */
int reader(int i, int offset, int stride, int size) {
    const int distance = i - offset;
    return (distance >= 0 && distance % stride == 0 && distance / stride < size) ? distance / stride : -1;
}

/* The gradient at position (h, w) of the padded input, from all channels of one group. */
RESULT gathered(global const FIRST *g, global const SECOND *weight, int n, int c, int h, int w, GEOMETRY) {
    const int per_group = channels / groups, out_per_group = out_channels / groups;
    const int first = c / per_group * out_per_group;
    RESULT sum = 0;
    for (int k = first; k < first + out_per_group; ++k) {
        global const SECOND *tap = weight + ((long)k * per_group + c % per_group) * taps.x * taps.y;
        for (int r = 0; r < taps.x; ++r) {
            const int p = reader(h + before.x, r * dilation.x, stride.x, result.x);
            for (int s = 0; p >= 0 && s < taps.y; ++s) {
                const int q = reader(w + before.y, s * dilation.y, stride.y, result.y);
                if (q >= 0) sum += (RESULT)g[at(n, k, p, q, out_channels, result)] * (RESULT)tap[r * taps.y + s];
            }
        }
    }
    return sum;
}

/* How many positions of a padded axis may stand for a pixel, and which: itself, then the padding before and behind. */
#if BOUNDARY_CONSTANT
#define STANDING(before, after) 1
#else
#define STANDING(before, after) (1 + (before) + (after))
#endif

int standing(int number, int i, int size, int before) {
    if (number == 0) return i;
    return number <= before ? -number : size + number - before - 1;
}

/* The gradient of pixel (h, w): of every position that it stands at, or of all but its own. */
RESULT folded(bool own, global const FIRST *g, global const SECOND *weight, int n, int c, int h, int w, GEOMETRY,
              int2 after) {
    RESULT sum = 0;
    for (int i = 0; i < STANDING(before.x, after.x); ++i) {
        const int row = standing(i, h, image.x, before.x);
        if (source(row, image.x) != h) continue;
        for (int j = i == 0 && !own; j < STANDING(before.y, after.y); ++j) {
            const int column = standing(j, w, image.y, before.y);
            if (source(column, image.y) == w)
                sum += gathered(g, weight, n, c, row, column, channels, image, out_channels, result, groups, taps,
                                stride, dilation, before);
        }
    }
    return sum;
}

kernel void grad_input(global const FIRST *g, long g0, global const SECOND *weight, long weight0,
                       global const RESULT *bias, long bias0, global RESULT *dx, long dx0, GEOMETRY, int2 after,
                       long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int w = item % image.y, h = item / image.y % image.x;
    const long image_channel = item / image.y / image.x;
    const int c = image_channel % channels, n = image_channel / channels;
    const RESULT sum = folded(true, g + g0, weight + weight0, n, c, h, w, channels, image, out_channels, result, groups,
                              taps, stride, dilation, before, after);
    dx[dx0 + at(n, c, h, w, channels, image)] = bias ? sum + bias[bias0 + c] : sum;
}

kernel void fold(global const FIRST *g, long g0, global const SECOND *weight, long weight0, global RESULT *dx, long dx0,
                 GEOMETRY, int2 after, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int w = item % image.y, h = item / image.y % image.x;
    const long image_channel = item / image.y / image.x;
    const int c = image_channel % channels, n = image_channel / channels;
    dx[dx0 + at(n, c, h, w, channels, image)] +=
        folded(false, g + g0, weight + weight0, n, c, h, w, channels, image, out_channels, result, groups, taps, stride,
               dilation, before, after);
}

kernel void grad_weight(global const FIRST *x, long x0, global const SECOND *g, long g0, global RESULT *dw, long dw0,
                        GEOMETRY, RESULT fill, long items, long all_rows, long rows) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int per_group = channels / groups;
    const long elements = (long)out_channels * per_group * taps.x * taps.y;
    const long chunk = item / elements, element = item % elements;
    const int s = element % taps.y, r = element / taps.y % taps.x;
    const long channel_pair = element / taps.y / taps.x;
    const int k = channel_pair / per_group;
    const int c = k / (out_channels / groups) * per_group + channel_pair % per_group;

    RESULT sum = 0;
    for (long row = chunk * rows; row < MIN((chunk + 1) * rows, all_rows); ++row) {
        const int p = row % result.x, n = row / result.x;
        const int h = source(p * stride.x + r * dilation.x - before.x, image.x);
        for (int q = 0; q < result.y; ++q) {
            const int w = source(q * stride.y + s * dilation.y - before.y, image.y);
            const RESULT pixel = (h < 0 || w < 0) ? fill : (RESULT)x[x0 + at(n, c, h, w, channels, image)];
            sum += pixel * (RESULT)g[g0 + at(n, k, p, q, out_channels, result)];
        }
    }
    dw[dw0 + item] = sum;
}
