/* Dot-product micro-kernel over lines of pixels.
 *
 *     out[m] = sum_{p < lines} sum_{q < width} A[a_offset[m] + p*a_line + q] * B[p*b_line + q],  0 <= m < rows
 *
 * For grad_weight where a group has too few channels to fill lanes with them (depthwise above all): A is a plane of x,
 * m a tap, B the plane of grad_out.
 *
 * Blocking: one vector accumulator for each row, one vector of B.  The lanes of an accumulator are added up once, at
 * the end, in a fixed order.  The last vector of a line is masked, A and B both, so that nothing outside the width is
 * ever multiplied: no NaN is made of what the formula does not contain.
 *
 * The caller guarantees that A and B may be read up to the end of the last vector of a line.
 */
static inline __attribute__((always_inline)) NAMED(vector) NAMED(masked)(const TYPE *at, NAMED(mask) mask) {
    return (NAMED(vector))((NAMED(mask))(*(const NAMED(vector) *)at) & mask);
}

static inline __attribute__((always_inline)) void NAMED(dot)(const int rows, const int vectors, const dot_loop *loop,
                                                             const TYPE *a, const TYPE *b, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const index_t whole = loop->width / LANES * LANES;
    NAMED(vector) sum[MAX_TILE_ROWS];
    NAMED(mask) mask;
    (void)vectors; /* one */
    for (int lane = 0; lane < LANES; lane++) mask[lane] = whole + lane < loop->width ? -1 : 0;
    UNROLL for (int m = 0; m < rows; m++) sum[m] = (NAMED(vector)){0};
    for (index_t p = 0; p < loop->lines; p++, a += loop->a_line, b += loop->b_line) {
        for (index_t q = 0; q < whole; q += LANES) {
            const NAMED(vector) b_lanes = *(const NAMED(vector) *)(b + q);
            UNROLL for (int m = 0; m < rows; m++) sum[m] +=
                b_lanes * *(const NAMED(vector) *)(a + loop->a_offset[m] + q);
        }
        if (whole < loop->width) {
            const NAMED(vector) b_lanes = NAMED(masked)(b + whole, mask);
            UNROLL for (int m = 0; m < rows; m++) sum[m] +=
                b_lanes * NAMED(masked)(a + loop->a_offset[m] + whole, mask);
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        TYPE total = 0;
        for (int lane = 0; lane < LANES; lane++) total += sum[m][lane];
        out[m] = total;
    }
}
