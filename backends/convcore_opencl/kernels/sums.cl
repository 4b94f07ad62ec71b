/*
 * Purpose
 *   Sums in a fixed order, so that the same problem gives the same bits every time: the bias gradient,
 *   the chunks of a split reduction; and the extremes of an array of integers.
 *
 * Formula
 *   channel_sum     db[k]  = sum_{n,p,q} g[n,k,p,q], one copy per chunk of `rows` of the N * P rows
 *   add_chunks      out[i] = sum_chunk partial[chunk][i]
 *   extremes        out[i] = (smallest, largest) of 0 and values[j] over j = i, i + items, i + 2 * items, ...
 *
 * Operands
 *   g (N, channels, size.x, size.y) in the layout of at(); partial (chunks, elements); out (elements).
 *   The number after a buffer is where its first element is.
 *
 * Blocking
 *   None: one accumulator per work-item, no __local memory.
 *
 * The caller guarantees
 *   More work-items than `items` (or `elements`) do nothing.
 */

kernel void channel_sum(global const FIRST *g, long g0, global RESULT *db, long db0, int channels, int2 size,
                        long items, long all_rows, long rows) {
    const long item = get_global_id(0);
    if (item >= items) return;
    const int k = item % channels;
    const long chunk = item / channels;

    RESULT sum = 0;
    for (long row = chunk * rows; row < MIN((chunk + 1) * rows, all_rows); ++row)
        for (int q = 0; q < size.y; ++q) sum += (RESULT)g[g0 + at(row / size.x, k, row % size.x, q, channels, size)];
    db[db0 + item] = sum;
}

kernel void add_chunks(global const RESULT *partial, long partial0, global RESULT *out, long out0, long elements,
                       int chunks) {
    const long element = get_global_id(0);
    if (element >= elements) return;
    RESULT sum = 0;
    for (int chunk = 0; chunk < chunks; ++chunk) sum += partial[partial0 + chunk * elements + element];
    out[out0 + element] = sum;
}

kernel void extremes(global const FIRST *values, long values0, global long2 *out, long out0, long elements,
                     long items) {
    const long item = get_global_id(0);
    if (item >= items) return;
    long2 found = 0;
    for (long i = item; i < elements; i += items) {
        const long value = values[values0 + i];
        found.x = MIN(found.x, value);
        found.y = MAX(found.y, value);
    }
    out[out0 + item] = found;
}
