/*
 * Purpose
 *   The whole result of a correlation that no tap reaches: the bias of each channel, or zero.  Phases of a stride that
 *   taps do reach are written over it.
 *
 * Formula
 *   out[n, c, h, w] = bias[c]
 *
 * Operands
 *   out   (N, channels, H, W) in the layout of at(), a plane being H * W elements
 *   bias  one value per channel, or NULL
 *   The number after a buffer is where its first element is.
 *
 * Blocking
 *   `run` neighbours per work-item: a plane on a CPU, whose compiler makes vectors of it; one element on a GPU.
 *
 * The caller guarantees
 *   run divides plane, and items * run are all elements; more work-items do nothing.
 */

kernel void fill(global const RESULT *bias, long bias0, global RESULT *out, long out0, int channels, int plane, int run,
                 long items) {
    const long item = get_global_id(0), from = item * run;
    if (item >= items) return;
    out += out0 + from;
    if (!bias) {
        for (int i = 0; i < run; ++i) out[i] = 0;
        return;
    }
    for (int i = 0; i < run; ++i) out[i] = bias[bias0 + (NHWC ? from + i : from / plane) % channels];
}
