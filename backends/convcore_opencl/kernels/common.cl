/*
 * Purpose
 *   What every kernel file shares; it is put in front of each of them.
 *
 * Specialisation (-D), the same words everywhere
 *   FIRST, SECOND   element types of the two operands, e.g. float, uchar
 *   RESULT          element type of result, bias and sums: float, double or long
 *   LANES, INDEX    elements of a vector, for kernels that use them, and the integer type as wide as RESULT
 *   NHWC            0 or 1: channels of images are stored outermost or innermost
 *   BOUNDARY_...    what stands beyond the edge: CONSTANT is the fill value; EDGE, WRAP, REFLECT and
 *                   SYMMETRIC are pixels of the image, as numpy.pad has them
 */

#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif

#ifndef BOUNDARY_CONSTANT
#define BOUNDARY_CONSTANT 0
#endif

/* PoCL 3.0 calls its builtins, these too, and keeps nothing in vector registers meanwhile. */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define CLAMP(a, least, most) MIN(MAX(a, least), most)

/* Position of pixel (h, w) of channel c of image n; size is (rows, columns). */
long at(int n, int c, int h, int w, int channels, int2 size) {
#if NHWC
    return (((long)n * size.x + h) * size.y + w) * channels + c;
#else
    return (((long)n * channels + c) * size.x + h) * size.y + w;
#endif
}

/* Distance in memory between neighbours of a row. */
#define COLUMN_STEP(channels) (NHWC ? (channels) : 1)

/* Where pixel 0 of channel 0 of image n lies, and the distance between channels. */
#define IMAGE_AT(n, channels, image) ((long)(n) * (channels) * (image).x * (image).y)
#define PLANE(image) (NHWC ? 1 : (long)(image).x * (image).y)

/* The remainder of i in [0, period). */
int modulo(int i, int period) {
    const int remainder = i % period;
    return remainder < 0 ? remainder + period : remainder;
}

/* The row (or column) that stands at position i of an axis: in [0, size), or -1 for the fill value. */
int source(int i, int size) {
#if BOUNDARY_EDGE
    return CLAMP(i, 0, size - 1);
#elif BOUNDARY_WRAP
    return modulo(i, size);
#elif BOUNDARY_REFLECT
    const int period = MAX(2 * size - 2, 1), forth = modulo(i, period);
    return MIN(forth, period - forth);
#elif BOUNDARY_SYMMETRIC
    const int forth = modulo(i, 2 * size);
    return MIN(forth, 2 * size - 1 - forth);
#else
    return (i >= 0 && i < size) ? i : -1;
#endif
}

#ifdef LANES
#define CONCATENATE(a, b) a##b
#define WIDE(type, lanes) CONCATENATE(type, lanes)
#if LANES > 1
typedef WIDE(RESULT, LANES) vector;
/* What comparing vectors gives. */
typedef WIDE(INDEX, LANES) indices;
#else
typedef RESULT vector;
typedef INDEX indices;
#endif
/* Half a vector, and the lanes of two halves in turn. */
#if LANES == 2
typedef RESULT half_vector;
#define MERGED(a) (a)
#elif LANES == 4
typedef WIDE(RESULT, 2) half_vector;
#define MERGED(a) (a).s0213
#elif LANES == 8
typedef WIDE(RESULT, 4) half_vector;
#define MERGED(a) (a).s04152637
#elif LANES == 16
typedef WIDE(RESULT, 8) half_vector;
#define MERGED(a) (a).s08192a3b4c5d6e7f
#endif
/* A vector that may start at any element. */
typedef vector loose __attribute__((aligned(sizeof(RESULT))));

#if LANES > 1
/* (vector)(low, high), but nothing is widened on the way, which crashes oclgrind 21.10. */
vector joined(half_vector low, half_vector high) {
    union {
        half_vector halves[2];
        vector all;
    } both = {{low, high}};
    return both.all;
}
#endif

/* Whether a comparison of vectors holds anywhere. */
bool any_of(indices compared) {
    union {
        indices all;
        INDEX lane[LANES];
    } each = {compared};
    INDEX found = 0;
    for (int lane = 0; lane < LANES; ++lane) found |= each.lane[lane];
    return found != 0;
}

/* A function of vectors, because LLVM splits those of AVX-512 in two unless one is passed somewhere. */
vector multiply_add(vector sum, vector a, vector b) { return sum + a * b; }

/* first, first + 1, first + 2, ... */
indices counted(int first) {
    union {
        indices all;
        INDEX lane[LANES];
    } count;
    for (int lane = 0; lane < LANES; ++lane) count.lane[lane] = first + lane;
    return count.all;
}

/* Vectors of a part of the lanes, which may start at any element too. */
typedef WIDE(RESULT, 2) loose2 __attribute__((aligned(sizeof(RESULT))));
typedef WIDE(RESULT, 4) loose4 __attribute__((aligned(sizeof(RESULT))));
typedef WIDE(RESULT, 8) loose8 __attribute__((aligned(sizeof(RESULT))));

/* Do DO(type, at) to vectors that cover `count` elements; two that overlap take the place of many single ones. */
#define COVER(count, DO)                                                                                               \
    do {                                                                                                               \
        if ((count) >= LANES) {                                                                                        \
            for (int at = 0; at < (count) - LANES; at += LANES) DO(loose, at);                                         \
            DO(loose, (count) - LANES);                                                                                \
        } else if ((count) >= 8) {                                                                                     \
            DO(loose8, 0);                                                                                             \
            DO(loose8, (count) - 8);                                                                                   \
        } else if ((count) >= 4) {                                                                                     \
            DO(loose4, 0);                                                                                             \
            DO(loose4, (count) - 4);                                                                                   \
        } else if ((count) >= 2) {                                                                                     \
            DO(loose2, 0);                                                                                             \
            DO(loose2, (count) - 2);                                                                                   \
        } else if ((count) == 1) {                                                                                     \
            DO(RESULT, 0);                                                                                             \
        }                                                                                                              \
    } while (0)

/* Set `count` elements to a value. */
void spread(private RESULT *to, int count, RESULT value) {
#define SPREAD(type, at) *(private type *)(to + (at)) = value
    COVER(count, SPREAD);
}

/* Copy `count` elements that lie `step` apart. */
void bring(private RESULT *to, global const RESULT *from, int step, int count) {
#define BRING(type, at) *(private type *)(to + (at)) = *(global const type *)(from + (at))
    if (step == 1) {
        COVER(count, BRING);
        return;
    }
    for (int i = 0; i < count; ++i) to[i] = from[(long)i * step];
}

/* Store the first `count` lanes, at most all, `step` apart. */
void store(global RESULT *to, vector value, int step, int count) {
#define STORE(type, at) *(global type *)(to + (at)) = *(private const type *)(lane + (at))
    if (step == 1 && count >= LANES) {
        *(global loose *)to = value;
        return;
    }
    RESULT lane[LANES];
    *(private loose *)lane = value;
    if (step == 1) {
        COVER(count, STORE);
        return;
    }
    for (int i = 0; i < MIN(count, LANES); ++i) to[(long)i * step] = lane[i];
}

/* Copy `count` pixels of row h, whose first is at `line`, from column `left` on; h is -1 for a row of the fill value.
 */
void stage(private RESULT *staged, int count, global const RESULT *line, int column_step, int left, int h, int size,
           RESULT fill) {
    const int from = h < 0 ? count : CLAMP(-left, 0, count), to = h < 0 ? count : CLAMP(size - left, from, count);
#if BOUNDARY_CONSTANT
    spread(staged, from, fill);
    spread(staged + to, count - to, fill);
#else
    for (int i = 0; i < from; ++i) staged[i] = line[(long)source(left + i, size) * column_step];
    for (int i = to; i < count; ++i) staged[i] = line[(long)source(left + i, size) * column_step];
#endif
    bring(staged + from, line + (long)(left + from) * column_step, column_step, to - from);
}

#ifdef STRIDE_W
/* Sort columns [from, until) of a row's pixels by their phase in the stride: to[STRIDE_W][pitch]; several vectors. */
#if STRIDE_W == 2 && LANES > 1
#define SORT_PHASES(to, pitch, from, until, space, row)                                                                \
    for (int column = (from); column < (until); column += LANES) {                                                     \
        const int at = MIN(column, (until) - LANES);                                                                   \
        const vector low = *(space const loose *)((row) + 2 * at);                                                     \
        const vector high = *(space const loose *)((row) + 2 * at + LANES);                                            \
        *(private loose *)((to) + at) = joined(low.even, high.even);                                                   \
        *(private loose *)((to) + (pitch) + at) = joined(low.odd, high.odd);                                           \
    }
#else
#define SORT_PHASES(to, pitch, from, until, space, row)                                                                \
    for (int phase = 0; phase < STRIDE_W; ++phase)                                                                     \
        for (int column = (from); column < (until); ++column)                                                          \
            (to)[phase * (pitch) + column] = (row)[column * STRIDE_W + phase];
#endif

/* Bring columns [from, until): those at the edges, one by one until all are outside. */
void stage_edge(private RESULT *staged, int pitch, int from, int until, global const RESULT *line, int left, int size,
                RESULT fill) {
    int column = from;
    for (; column < until && (!BOUNDARY_CONSTANT || left + column * STRIDE_W < size); ++column)
        for (int phase = 0; phase < STRIDE_W; ++phase) {
            const int w = source(left + column * STRIDE_W + phase, size);
            staged[phase * pitch + column] = w < 0 ? fill : line[w];
        }
    for (int phase = 0; phase < STRIDE_W; ++phase) spread(staged + phase * pitch + column, until - column, fill);
}

/* Stage STRIDE_W * pitch pixels as stage() does, sorted by their phase in the stride: staged[STRIDE_W][pitch].
   `scratch` has room for as many. */
void stage_sorted(private RESULT *staged, private RESULT *scratch, int pitch, global const RESULT *line,
                  int column_step, int left, int h, int size, RESULT fill) {
#if STRIDE_W == 1
    stage(staged, pitch, line, column_step, left, h, size, fill);
#else
    /* Columns whose pixels all are in the image. */
    const int from = CLAMP((STRIDE_W - 1 - left) / STRIDE_W, 0, pitch);
    const int until = CLAMP((size - left) / STRIDE_W, from, pitch);
    if (column_step == 1 && h >= 0 && until - from >= LANES) {
        SORT_PHASES(staged, pitch, from, until, global, line + left)
        stage_edge(staged, pitch, 0, from, line, left, size, fill);
        stage_edge(staged, pitch, until, pitch, line, left, size, fill);
        return;
    }
    stage(scratch, STRIDE_W * pitch, line, column_step, left, h, size, fill);
    SORT_PHASES(staged, pitch, 0, pitch, private, scratch)
#endif
}
#endif
#endif
