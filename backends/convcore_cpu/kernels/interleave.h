/* Store two lines in turns.
 *
 *     out[out_row[r] + 2*j] = in[in_row[r] + j]
 *     out[out_row[r] + 2*j + 1] = in[other + in_row[r] + j],   0 <= r < rows
 *
 * as far as `count` elements of a line of the result go.  Pixels that meet different taps of a kernel, since it has a
 * stride, stand so in the result of grad_input.
 *
 * The caller guarantees that whole vectors may be read.
 */
static inline __attribute__((always_inline)) void NAMED(store_in_turns)(const TYPE *from, index_t other, index_t count,
                                                                        TYPE *to) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    for (index_t left = count; left > 0; left -= 2 * LANES, from += LANES, to += 2 * LANES) {
        const NAMED(vector) even = *(const NAMED(vector) *)from, odd = *(const NAMED(vector) *)(from + other);
        const NAMED(vector) low = NAMED(in_turn)(even, odd, 0), high = NAMED(in_turn)(even, odd, LANES / 2);
        if (left >= 2 * LANES) {
            *(NAMED(vector) *)to = low;
            *(NAMED(vector) *)(to + LANES) = high;
            continue;
        }
        NAMED(store_lanes)(to, low, left < LANES ? left : LANES);
        if (left > LANES) NAMED(store_lanes)(to + LANES, high, left - LANES);
    }
}

static inline __attribute__((always_inline)) void
NAMED(interleave)(const int rows, const int vectors, const interleave_loop *loop, const TYPE *in, TYPE *out) {
    (void)rows, (void)vectors; /* any number */
    for (index_t r = 0; r < loop->rows; r++) {
        NAMED(store_in_turns)(in + loop->in_row[r], loop->other, loop->count, out + loop->out_row[r]);
    }
}
