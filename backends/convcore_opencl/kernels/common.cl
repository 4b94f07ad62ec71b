/*
 * Purpose
 *   What every kernel file shares; it is put in front of each of them.
 *
 * Specialisation (-D), the same words everywhere
 *   FIRST, SECOND   element types of the two operands, e.g. float, uchar
 *   RESULT          element type of result, bias and sums: float, double or long
 *   NHWC            0 or 1: channels of images are stored outermost or innermost
 *   BOUNDARY_...    what stands beyond the edge; BOUNDARY_CONSTANT is the fill value
 */

#ifdef cl_khr_fp64
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#endif

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

/* The row (or column) that stands at position i of an axis: in [0, size), or -1 for the fill value. */
int source(int i, int size) {
#if BOUNDARY_CONSTANT
    return (i >= 0 && i < size) ? i : -1;
#endif
}
