/*
 * Purpose
 *   float16 in memory, float32 in all that is computed.
 *
 * Formula
 *   widen   out[i] = in[i]
 *   narrow  out[i] = in[i] rounded to the nearest, ties to even
 *
 * Operands
 *   in and out have `items` elements.  The number after a buffer is where its first element is.
 *
 * Blocking
 *   None: an element per work-item.
 *
 * The caller guarantees
 *   More work-items than `items` do nothing.  vload_half and vstore_half need no cl_khr_fp16, which is for arithmetic.
 */

kernel void widen(global const half *in, long in0, global float *out, long out0, long items) {
    const long item = get_global_id(0);
    if (item < items) out[out0 + item] = vload_half(in0 + item, in);
}

kernel void narrow(global const float *in, long in0, global half *out, long out0, long items) {
    const long item = get_global_id(0);
    if (item < items) vstore_half_rte(in[in0 + item], out0 + item, out);
}
