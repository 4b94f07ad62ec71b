/* Inner-product micro-kernel: rows of A times a vector of terms.
 *
 *     out[m] += sum_{l < length} A[a_row[m] + l] * terms[l],   0 <= m < rows
 *
 * What outer.h computes for a single pixel, where the terms of a row of A lie side by side; lanes are terms.
 *
 * Blocking: a vector of sums for each row, so that a vector of terms is loaded once for all of them; the lanes of
 * all sums are added together at the end (dot.h).  Nothing is read past the last term.
 */
static inline __attribute__((always_inline)) void
NAMED(inner)(const int rows, const int vectors, const inner_loop *loop, const TYPE *a, const TYPE *terms, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(vector) sum[MAX_TILE_ROWS];
    const TYPE *a_at[MAX_TILE_ROWS];
    (void)vectors; /* one */
    UNROLL for (int m = 0; m < rows; m++) sum[m] = (NAMED(vector)){0}, a_at[m] = a + loop->a_row[m];
    index_t l = 0;
    for (; l + LANES <= loop->length; l += LANES) {
        const NAMED(vector) lanes = *(const NAMED(vector) *)(terms + l);
        UNROLL for (int m = 0; m < rows; m++) sum[m] += lanes * *(const NAMED(vector) *)(a_at[m] + l);
    }
    if (l < loop->length) {
        const index_t left = loop->length - l;
        const NAMED(vector) lanes = NAMED(load_lanes)(terms + l, left);
        UNROLL for (int m = 0; m < rows; m++) sum[m] += lanes * NAMED(load_lanes)(a_at[m] + l, left);
    }
    UNROLL for (int first = 0; first < rows; first += LANES) {
        const int count = rows - first < LANES ? rows - first : LANES;
        NAMED(store_lanes)(out + first, NAMED(load_lanes)(out + first, count) + NAMED(totals)(count, sum + first), count);
    }
}
