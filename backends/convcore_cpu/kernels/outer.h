/* Outer-product micro-kernel with offset tables.
 *
 *     out[out_row[m] + j] = start(m, j) + sum_{t < repeats} sum_{l < length}
 *                           A[a_row[m] + t*a_step + a_off[l]] * B[t*b_step + b_off[l] + j]
 *
 *     0 <= m < rows, 0 <= j < columns;  start(m, j) is init[m], or out[out_row[m] + j] when init is NULL
 *
 * A is read one element at a time and broadcast, B a vector at a time, from any address.  Because both are reached
 * through tables, one micro-kernel serves forward and grad_input: neither the weight nor the taps of a kernel are ever
 * copied into another order.
 *
 *     direction     rows m        lanes j   reduction l   A                    B
 *     forward       out channel   pixel     c, r, s       weight, in place     planes of x
 *     grad_input    in channel    pixel     k, r, s       weight, in place     planes of grad_out
 *
 * Where results do not lie side by side, `runs` says where each vector of them goes, in up to two pieces: what lies
 * between those, or past them, is dropped.
 *
 * Blocking: rows*(columns/lanes) accumulators, columns/lanes vectors of B and one broadcast live in registers; the
 * table row states rows and columns.  The order of additions for an element depends on nothing but the tables.
 *
 * The caller guarantees that B may be read for all `columns` lanes, and that out has `columns` elements in each row.
 * Edges are the caller's: it repeats a row of A, or drops lanes.
 *
 * Source: the rank-1 update of Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", section 4.2,
 * with the packed panels replaced by the indirection of Dukhan, "The Indirect Convolution Algorithm", section 3; the
 * indirection here is one table for all pixels, which flattening the pixels over the pitch of a plane makes possible.
 */
static inline __attribute__((always_inline)) void NAMED(outer)(const int rows, const int vectors,
                                                               const outer_loop *loop, const TYPE *a, const TYPE *b,
                                                               const TYPE *init, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(vector) sum[MAX_TILE_ROWS][MAX_TILE_VECTORS];
    const TYPE *a_at[MAX_TILE_ROWS];
    UNROLL for (int m = 0; m < rows; m++) {
        a_at[m] = a + loop->a_row[m];
        UNROLL for (int v = 0; v < vectors; v++) {
            if (init) sum[m][v] = init[m] - (NAMED(vector)){0}; /* the broadcast that keeps the sign of a zero */
            else sum[m][v] = ((NAMED(vector) *)(out + loop->out_row[m]))[v];
        }
    }
    for (index_t t = 0; t < loop->repeats; t++) {
        for (index_t l = 0; l < loop->length; l++) {
            const NAMED(vector) *b_at = (const NAMED(vector) *)(b + loop->offsets[2 * l + 1]);
            const index_t a_off = loop->offsets[2 * l];
            NAMED(vector) lanes[MAX_TILE_VECTORS];
            UNROLL for (int v = 0; v < vectors; v++) lanes[v] = b_at[v];
            UNROLL for (int m = 0; m < rows; m++) {
                UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += lanes[v] * a_at[m][a_off];
            }
        }
        b += loop->b_step;
        UNROLL for (int m = 0; m < rows; m++) a_at[m] += loop->a_step;
    }
    if (loop->runs) {
        UNROLL for (int v = 0; v < vectors; v++) {
            const lane_runs run = loop->runs[v];
            if (run.kept == LANES) {
                UNROLL for (int m = 0; m < rows; m++) *(NAMED(vector) *)(out + loop->out_row[m] + run.at) = sum[m][v];
                continue;
            }
            UNROLL for (int m = 0; m < rows; m++) {
                NAMED(store_between)(out + loop->out_row[m] + run.at, sum[m][v], 0, run.kept);
                NAMED(store_between)(out + loop->out_row[m] + run.next, sum[m][v], run.from, run.to);
            }
        }
        return;
    }
    UNROLL for (int m = 0; m < rows; m++) {
        UNROLL for (int v = 0; v < vectors; v++) ((NAMED(vector) *)(out + loop->out_row[m]))[v] = sum[m][v];
    }
}
