/* Dot-product micro-kernel over lines of pixels.
 *
 *     out[m] = sum_{p < lines} sum_{q < width} A[a_offset[m] + p*a_line + q] * B[p*b_line + q],  0 <= m < rows
 *
 * For grad_weight where a group has too few channels to fill lanes with them (depthwise above all): A is a plane of x,
 * m a tap, B the plane of grad_out.
 *
 * Blocking: one vector accumulator for each row, one vector of B.  The lanes of an accumulator are added up once, at
 * the end, in a fixed order.  Pixels of the last, partial vector of a line are added one at a time in a scalar of
 * their own: nothing outside the width is ever multiplied, so no NaN is made of what the formula does not contain.
 */
static inline __attribute__((always_inline)) void NAMED(dot)(const int rows, const int vectors, const dot_loop *loop,
                                                             const TYPE *a, const TYPE *b, TYPE *out) {
    const int lanes = vectors * (int)(VECTOR_BYTES / sizeof(TYPE));
    const index_t whole = loop->width / lanes * lanes;
    NAMED(vector) sum[MAX_ROWS];
    TYPE rest[MAX_ROWS];
    UNROLL for (int m = 0; m < rows; m++) sum[m] = (NAMED(vector)){0}, rest[m] = 0;
    for (index_t p = 0; p < loop->lines; p++, a += loop->a_line, b += loop->b_line) {
        for (index_t q = 0; q < whole; q += lanes) {
            const NAMED(vector) b_lanes = *(const NAMED(vector) *)(b + q);
            UNROLL for (int m = 0; m < rows; m++) sum[m] +=
                b_lanes * *(const NAMED(vector) *)(a + loop->a_offset[m] + q);
        }
        for (index_t q = whole; q < loop->width; q++) {
            UNROLL for (int m = 0; m < rows; m++) rest[m] += a[loop->a_offset[m] + q] * b[q];
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        TYPE total = rest[m];
        for (int lane = 0; lane < lanes; lane++) total += sum[m][lane];
        out[m] = total;
    }
}
