/* Outer-product micro-kernel over a panel of B.
 *
 *     out[out_row[m] + j] = start(m, j) + sum_{t < repeats} sum_{l < length}
 *                           A[a_row[m] + t*a_repeat + l*a_step] * B[t*b_repeat + l*columns + j],
 *     or, with a table,     A[a_row[m] + a_at[l]] * B[l*columns + j], once
 *
 *     0 <= m < rows, 0 <= j < columns;  start(m, j) is init[m], or out[out_row[m] + j] when init is NULL
 *
 * What outer.h computes, for a B whose lines have been copied one after the other (collect.h, or pack.h), and an A that
 * is read where it lies: at even steps a row of a weight, a line of pixels, or the points of a transform; from a table
 * the taps of pixels.  Without tables of offsets it takes 15 % less time than outer.h.
 *
 * Blocking as in outer.h, two terms at a time where that leaves registers enough.  The order of additions for an
 * element depends on nothing but the loop.
 *
 * The caller guarantees that out has `columns` elements in each row.  Edges are the caller's: it repeats a row of A, or
 * drops lanes.
 *
 * Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", section 4.2; only B is packed.
 */
static inline __attribute__((always_inline)) void NAMED(panel_term)(const int rows, const int vectors,
                                                                    const TYPE *const *a, index_t a_off, const TYPE *b,
                                                                    NAMED(vector) sum[][MAX_TILE_VECTORS]) {
    NAMED(vector) lanes[MAX_TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) lanes[v] = ((const NAMED(vector) *)b)[v];
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += lanes[v] * a[m][a_off];
    }
}

static inline __attribute__((always_inline)) void NAMED(panel)(const int rows, const int vectors,
                                                               const panel_loop *loop, const TYPE *a, const TYPE *b,
                                                               const TYPE *init, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE), AT_ONCE = VECTOR_REGISTERS > 16 ? 2 : 1 };
    NAMED(vector) sum[MAX_TILE_ROWS][MAX_TILE_VECTORS];
    const TYPE *a_at[MAX_TILE_ROWS];
    UNROLL for (int m = 0; m < rows; m++) {
        a_at[m] = a + loop->a_row[m];
        UNROLL for (int v = 0; v < vectors; v++) {
            if (init) sum[m][v] = init[m] - (NAMED(vector)){0}; /* the broadcast that keeps the sign of a zero */
            else sum[m][v] = ((NAMED(vector) *)(out + loop->out_row[m]))[v];
        }
    }
    const index_t step = loop->a_step, length = loop->length;
    if (loop->a_at) {
        index_t l = 0;
        for (; l + AT_ONCE <= length; l += AT_ONCE) {
            UNROLL for (int i = 0; i < AT_ONCE; i++, b += vectors * LANES) {
                NAMED(panel_term)(rows, vectors, a_at, loop->a_at[l + i], b, sum);
            }
        }
        for (; l < length; l++, b += vectors * LANES) {
            NAMED(panel_term)(rows, vectors, a_at, loop->a_at[l], b, sum);
        }
    }
    for (index_t t = 0; t < loop->repeats && !loop->a_at; t++) {
        const TYPE *b_at = b + t * loop->b_repeat;
        index_t a_off = t * loop->a_repeat;
        index_t l = 0;
        for (; l + AT_ONCE <= length; l += AT_ONCE) {
            UNROLL for (int i = 0; i < AT_ONCE; i++, a_off += step, b_at += vectors * LANES) {
                NAMED(panel_term)(rows, vectors, a_at, a_off, b_at, sum);
            }
        }
        for (; l < length; l++, a_off += step, b_at += vectors * LANES) {
            NAMED(panel_term)(rows, vectors, a_at, a_off, b_at, sum);
        }
    }
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < vectors; v++) ((NAMED(vector) *)(out + loop->out_row[m]))[v] = sum[m][v];
    }
}
