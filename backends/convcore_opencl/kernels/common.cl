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

#ifdef STRIDE_W
/* The first of positions at, at + STRIDE_W, ... that is not before `bound`, as its number in [0, most]. */
int reaching(int at, int bound, int most) { return CLAMP((bound - at + STRIDE_W - 1) / STRIDE_W, 0, most); }

/* Copy STRIDE_W * pitch pixels of row h, whose first is at `line`, from column `left` on, sorted by their phase in
   the stride: staged[STRIDE_W][pitch].  h is -1 for a row of the fill value. */
void stage(private RESULT *staged, int pitch, global const RESULT *line, int column_step, int left, int h, int size,
           RESULT fill) {
    for (int phase = 0; phase < STRIDE_W; ++phase, ++left, staged += pitch) {
        const int from = h < 0 ? pitch : reaching(left, 0, pitch);
        const int to = h < 0 ? pitch : MAX(reaching(left, size, pitch), from);
        for (int column = 0; column < from; ++column) {
            const int w = h < 0 ? -1 : source(left + column * STRIDE_W, size);
            staged[column] = w < 0 ? fill : line[(long)w * column_step];
        }
        for (int column = from; column < to; ++column)
            staged[column] = line[((long)left + column * STRIDE_W) * column_step];
        for (int column = to; column < pitch; ++column) {
            const int w = h < 0 ? -1 : source(left + column * STRIDE_W, size);
            staged[column] = w < 0 ? fill : line[(long)w * column_step];
        }
    }
}
#endif
#endif
