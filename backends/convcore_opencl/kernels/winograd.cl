/*
 * Purpose
 *   The transforms of Winograd's minimal correlation F(TILE x TILE, 3 x 3); what is between them is a matrix product
 *   for each of POINTS = (TILE + 2)^2 points, left to a family that multiplies.
 *
 * Formula
 *   forward, grad_input   y tile = A^T [sum_c (G w G^T) (B^T x B)] A
 *   grad_weight           dw     = G^T [sum_t (A g A^T) (B^T x B)] G
 *   with x the (TILE + 2)^2 pixels under a TILE x TILE tile of y or g, w and dw 3 x 3.
 *
 * Operands
 *   x, in       (N, channels, image.x, image.y)       in the layout of at()
 *   g, out      (N, out_channels, result.x, result.y) in the layout of at()
 *   weight, dw  3 x 3 taps for each pair of channels: that of row k and term c starts at k * row_step + c * term_step;
 *               with REVERSED (grad_input) their order is reversed
 *   points of tiles [POINTS][channels][tiles], of the weight [POINTS][rows][terms]; tiles are numbered line by line
 *   and on from image to image
 *   bias        one value per output channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 * Tunables
 *   TILE       2, 4      results of a tile along an axis
 *   LANES      1 to 16   tiles, or terms of the weight, that a work-item transforms in the lanes of its vectors
 *   EACH       1 to 64   channels that a work-item looks the same pixels up in
 *   GRADIENTS  0, 1      whether `tiles` reads x, or g, whose tiles are those of the results
 *   REVERSED   0, 1      whether it is grad_input
 *
 * Blocking
 *   No __local memory, no barrier; POINTS vectors are private.
 *
 * The caller guarantees
 *   items = blocks of LANES tiles * blocks of EACH channels (weights and taps: rows * blocks of LANES terms); more
 *   work-items do nothing.  A channel has at most 2^31 - 1 elements.
 *
 * Edges
 *   Runs of pixels inside a row are dealt out to lanes by shuffles, others looked up one by one; the fill value stands
 *   outside.  A tile mixes its pixels, so one infinity makes NaN of all its results: those that are not finite are
 *   computed again, as the formula has them.
 *
 * Source
 *   Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4; for TILE = 4 with the
 *   points 0, 1, -1, 1/2, -2, which err less than 0, 1, -1, 2, -2.
 */

/* Points of LANES terms of one row of the weight. */
kernel void weights(global const RESULT *weight, long weight0, global RESULT *points, long points0, int rows, int terms,
                    long row_step, long term_step, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int blocks = (terms + LANES - 1) / LANES, first = item % blocks * LANES, row = item / blocks;
    weight += weight0 + row * row_step;
    union {
        vector all[POINTS];
        RESULT lane[POINTS][LANES];
    } square;
    for (int tap = 0; tap < 9; ++tap)
        for (int lane = 0; lane < LANES; ++lane)
            square.lane[tap / 3 * N + tap % 3][lane] =
                weight[MIN(first + lane, terms - 1) * term_step + (REVERSED ? 8 - tap : tap)];
    TRANSFORM(square.all, taps_to_points, 3, N);
    points += points0 + (long)row * terms + first;
    for (int point = 0; point < POINTS; ++point, points += (long)rows * terms) {
        if (first + LANES <= terms) {
            *(global loose *)points = square.all[point];
            continue;
        }
        for (int lane = 0; lane < terms - first; ++lane) points[lane] = square.lane[point][lane];
    }
}

/* Whether runs of pixels are dealt out to lanes: not where a vector is one element. */
#define DEALS (LANES > 1)

#if DEALS
/* Pixels a, a + TILE, a + 2 * TILE, ... of TILE vectors of them, for a < TILE. */
void deal(private vector *pixels) {
#if TILE == 2
    const vector even = joined(pixels[0].even, pixels[1].even);
    pixels[1] = joined(pixels[0].odd, pixels[1].odd), pixels[0] = even;
#else
    const vector even0 = joined(pixels[0].even, pixels[1].even), even1 = joined(pixels[2].even, pixels[3].even);
    const vector odd0 = joined(pixels[0].odd, pixels[1].odd), odd1 = joined(pixels[2].odd, pixels[3].odd);
    pixels[0] = joined(even0.even, even1.even), pixels[2] = joined(even0.odd, even1.odd);
    pixels[1] = joined(odd0.even, odd1.even), pixels[3] = joined(odd0.odd, odd1.odd);
#endif
}

/* The lanes of two vectors in turn. */
void interleave(private vector *a, private vector *b) {
    const vector low = joined((*a).lo, (*b).lo), high = joined((*a).hi, (*b).hi);
    *a = MERGED(low), *b = MERGED(high);
}

/* What deal() made into pixels one after the other again. */
void gather(private vector *pixels) {
#if TILE == 4
    interleave(&pixels[0], &pixels[2]);
    interleave(&pixels[1], &pixels[3]);
    vector middle = pixels[2];
    interleave(&pixels[0], &pixels[1]);
    interleave(&middle, &pixels[3]);
    pixels[2] = middle;
#else
    interleave(&pixels[0], &pixels[1]);
#endif
}
#endif

/* Pixels of a tile along an axis: those under it, or with GRADIENTS those of its results. */
#define FROM (GRADIENTS ? TILE : N)
#define TO_POINTS(line) (GRADIENTS ? results_to_points(line) : pixels_to_points(line))

/* Where in x the pixels of LANES tiles are, -1 for the fill value. */
void look_up(private long *index, int first, int all, int channels, int2 image, int2 tiles, int2 before) {
    for (int lane = 0; lane < LANES; ++lane) {
        const int tile = MIN(first + lane, all - 1), n = tile / tiles.y / tiles.x;
        const int i = tile / tiles.y % tiles.x * TILE - before.x, j = tile % tiles.y * TILE - before.y;
        for (int pixel = 0; pixel < FROM * FROM; ++pixel) {
            const int h = source(i + pixel / FROM, image.x), w = source(j + pixel % FROM, image.y);
            const long at_pixel = IMAGE_AT(n, channels, image) + ((long)h * image.y + w) * COLUMN_STEP(channels);
            index[pixel * LANES + lane] = h < 0 || w < 0 ? -1 : at_pixel;
        }
    }
}

/* Points of LANES tiles of EACH channels of x; with GRADIENTS of g, with no pixels but those of the tiles' results. */
kernel void tiles(global const RESULT *x, long x0, global RESULT *points, long points0, int images, int channels,
                  int2 image, int2 tiles, int2 before, RESULT fill, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int all = images * tiles.x * tiles.y, blocks = (all + LANES - 1) / LANES;
    const int first = item % blocks * LANES, c0 = item / blocks * EACH;
    const int n = first / tiles.y / tiles.x;
    const int i = first / tiles.y % tiles.x * TILE - before.x, j = first % tiles.y * TILE - before.y;
    const bool run = DEALS && !NHWC && first % tiles.y + LANES <= tiles.y && i >= 0 && j >= 0 && i + FROM <= image.x &&
                     j + (LANES + (GRADIENTS ? 0 : 1)) * TILE <= image.y;
    x += x0;
    points += points0 + (long)c0 * all + first;
    long index[FROM * FROM * LANES];
    if (!run) look_up(index, first, all, channels, image, tiles, before);
    for (int c = c0; c < MIN(c0 + EACH, channels); ++c, points += all) {
        union {
            vector all[POINTS];
            RESULT lane[POINTS][LANES];
        } square;
        if (run) {
#if DEALS
            global const RESULT *row = x + IMAGE_AT(n, channels, image) + c * PLANE(image) + (long)i * image.y + j;
#pragma unroll
            for (int a = 0; a < FROM; ++a, row += image.y) {
                vector pixels[TILE], moved[TILE];
#pragma unroll
                for (int v = 0; v < TILE; ++v) pixels[v] = *(global const loose *)(row + v * LANES);
                deal(pixels);
#pragma unroll
                for (int b = 0; b < TILE; ++b) square.all[a * N + b] = pixels[b];
                if (GRADIENTS) continue;
#pragma unroll
                for (int v = 0; v < TILE; ++v) moved[v] = *(global const loose *)(row + TILE + v * LANES);
                deal(moved);
                square.all[a * N + TILE] = moved[0], square.all[a * N + TILE + 1] = moved[1];
            }
#endif
        } else {
            global const RESULT *plane = x + c * PLANE(image);
            for (int pixel = 0; pixel < FROM * FROM; ++pixel)
                for (int lane = 0; lane < LANES; ++lane) {
                    const long at_pixel = index[pixel * LANES + lane];
                    square.lane[pixel / FROM * N + pixel % FROM][lane] = at_pixel < 0 ? fill : plane[at_pixel];
                }
        }
        TRANSFORM(square.all, TO_POINTS, FROM, N);
        global RESULT *to = points;
        for (int point = 0; point < POINTS; ++point, to += (long)channels * all) {
            if (first + LANES <= all) *(global loose *)to = square.all[point];
            for (int lane = 0; first + LANES > all && lane < all - first; ++lane) to[lane] = square.lane[point][lane];
        }
    }
}

/* Results of LANES tiles of one output channel. */
kernel void results(global const RESULT *points, long points0, global const RESULT *in, long in0,
                    global const RESULT *weight, long weight0, global const RESULT *bias, long bias0,
                    global RESULT *out, long out0, int images, int channels, int2 image, int out_channels, int2 result,
                    int2 tiles, int2 before, long row_step, long term_step, RESULT fill, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int all = images * tiles.x * tiles.y, blocks = (all + LANES - 1) / LANES;
    const int first = item % blocks * LANES, k = item / blocks;
    const RESULT shift = bias ? bias[bias0 + k] : 0;
    union {
        vector all[POINTS];
        RESULT lane[POINTS][LANES];
    } square;
    global const RESULT *from = points + points0 + (long)k * all + first;
    for (int point = 0; point < POINTS; ++point, from += (long)out_channels * all) {
        if (first + LANES <= all) square.all[point] = *(global const loose *)from;
        for (int lane = 0; first + LANES > all && lane < LANES; ++lane)
            square.lane[point][lane] = first + lane < all ? from[lane] : 0;
    }
    TRANSFORM(square.all, points_to_results, N, TILE);
    vector check = 0;
#pragma unroll
    for (int a = 0; a < TILE; ++a)
#pragma unroll
        for (int b = 0; b < TILE; ++b) {
            square.all[a * N + b] += shift;
            check += square.all[a * N + b] * 0;
        }
    const indices bad = check != 0;
    const bool finite = !any_of(bad);
    out += out0;
#if DEALS
    const int p0 = first / tiles.y % tiles.x * TILE, q0 = first % tiles.y * TILE;
    if (finite && !NHWC && first % tiles.y + LANES <= tiles.y && p0 + TILE <= result.x &&
        q0 + LANES * TILE <= result.y) {
        global RESULT *row = out + at(first / tiles.y / tiles.x, k, p0, q0, out_channels, result);
#pragma unroll
        for (int a = 0; a < TILE; ++a, row += result.y) {
            vector pixels[TILE];
#pragma unroll
            for (int b = 0; b < TILE; ++b) pixels[b] = square.all[a * N + b];
            gather(pixels);
#pragma unroll
            for (int v = 0; v < TILE; ++v) *(global loose *)(row + v * LANES) = pixels[v];
        }
        return;
    }
#endif
    for (int lane = 0; lane < MIN(LANES, all - first); ++lane) {
        const int tile = first + lane, n = tile / tiles.y / tiles.x;
        const int p0 = tile / tiles.y % tiles.x * TILE, q0 = tile % tiles.y * TILE;
        for (int p = p0; p < MIN(p0 + TILE, result.x); ++p)
            for (int q = q0; q < MIN(q0 + TILE, result.y); ++q) {
                RESULT value = square.lane[(p - p0) * N + q - q0][lane];
                if (value * 0 != 0)
                    value = shift + looked_up(in + in0 + IMAGE_AT(n, channels, image), weight + weight0 + k * row_step,
                                              channels, image, p - before.x, q - before.y, term_step, fill);
                out[at(n, k, p, q, out_channels, result)] = value;
            }
    }
}

/* The taps of LANES input channels of one output channel. */
kernel void taps(global const RESULT *points, long points0, global const RESULT *x, long x0, global const RESULT *g,
                 long g0, global RESULT *dw, long dw0, int images, int channels, int2 image, int out_channels,
                 int2 result, int2 before, RESULT fill, long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int blocks = (channels + LANES - 1) / LANES, first = item % blocks * LANES, k = item / blocks;
    union {
        vector all[POINTS];
        RESULT lane[POINTS][LANES];
    } square;
    global const RESULT *from = points + points0 + (long)k * channels + first;
    for (int point = 0; point < POINTS; ++point, from += (long)out_channels * channels) {
        if (first + LANES <= channels) square.all[point] = *(global const loose *)from;
        for (int lane = 0; first + LANES > channels && lane < LANES; ++lane)
            square.lane[point][lane] = first + lane < channels ? from[lane] : 0;
    }
    TRANSFORM(square.all, points_to_taps, N, 3);
    for (int lane = 0; lane < MIN(LANES, channels - first); ++lane)
        for (int tap = 0; tap < 9; ++tap) {
            RESULT sum = square.lane[tap / 3 * N + tap % 3][lane];
            const bool finite = sum * 0 == 0;
            if (!finite) sum = 0;
            for (long pixel = 0; !finite && pixel < (long)images * result.x * result.y; ++pixel) {
                const int q = pixel % result.y, p = pixel / result.y % result.x, n = pixel / result.y / result.x;
                const int h = source(p + tap / 3 - before.x, image.x), w = source(q + tap % 3 - before.y, image.y);
                const RESULT under = h < 0 || w < 0 ? fill : x[x0 + at(n, first + lane, h, w, channels, image)];
                sum += under * g[g0 + at(n, k, p, q, out_channels, result)];
            }
            dw[dw0 + ((long)k * channels + first + lane) * 9 + tap] = sum;
        }
}
