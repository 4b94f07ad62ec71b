/* Turn lines of neighbouring elements into columns.
 *
 *     out[j*out_line + r] = in[r*in_line + j],   0 <= r < lanes, 0 <= j < count
 *
 * Blocking: squares of as many vectors as a vector has lanes, turned by log2(lanes) rounds of interleaving each vector
 * with the one half the square on.
 *
 * Where the input may be read past the end of a line, whole vectors are.
 */
static inline __attribute__((always_inline)) void NAMED(turn)(const int rows, const int vectors, const turn_loop *loop,
                                                              const TYPE *in, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE), HALF = LANES / 2 };
    (void)rows, (void)vectors; /* a square of lanes */
    for (index_t j = 0; j < loop->count; j += LANES) {
        const index_t left = loop->count - j < LANES ? loop->count - j : LANES;
        NAMED(vector) square[LANES], next[LANES];
        if (left == LANES || loop->may_overrun) {
    UNROLL for (int r = 0; r < LANES; r++) square[r] = *(const NAMED(vector) *)(in + r * loop->in_line + j);
        } else {
            for (int r = 0; r < LANES; r++) square[r] = NAMED(load_lanes)(in + r * loop->in_line + j, left);
        }
        UNROLL for (int width = 1; width < LANES; width *= 2) {
            UNROLL for (int i = 0; i < HALF; i++) {
                next[2 * i] = NAMED(in_turn)(square[i], square[i + HALF], 0);
                next[2 * i + 1] = NAMED(in_turn)(square[i], square[i + HALF], HALF);
            }
            UNROLL for (int i = 0; i < LANES; i++) square[i] = next[i];
        }
        UNROLL for (int i = 0; i < LANES; i++) {
            if (i < left) *(NAMED(vector) *)(out + (j + i) * loop->out_line) = square[i];
        }
    }
}
