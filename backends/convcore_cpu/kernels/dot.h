/* Dot-product micro-kernel: grad_weight over lines of pixels, for groups of few channels.
 *
 *     out[k, m] += sum_{p < lines} sum_{q < width} B[a_row[m] + p*pitch + q] * G[k, p, q]
 *
 * Row m is a tap of a channel, (c, r, s); B is a band of x (band.h), or x itself where it needs neither padding nor
 * phases, G the plane of grad_out.
 *
 * Blocking: an accumulator for each of `rows` rows and `vectors` channels k, whose lanes are pixels side by side; one
 * vector of G for each k, one of B.  The lanes of the accumulators of a channel are added up together at the end of the
 * lines.  The last vector of a line is masked, B and G both, so that nothing outside the width is ever multiplied or
 * read: no NaN is made of what the formula does not contain.
 *
 * The caller guarantees that the band fits into MAX_BAND_BYTES.  Edges are fill, or the boundary's pixels.
 */
/* The sums of the lanes of up to as many vectors as a vector has lanes, side by side: in each round two vectors become
 * one of sums of neighbours. */
static inline __attribute__((always_inline)) NAMED(vector) NAMED(totals)(const int count, const NAMED(vector) * sums) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    NAMED(vector) left[LANES];
    int n = count;
    UNROLL for (int i = 0; i < LANES; i++) {
        if (i < n) left[i] = sums[i];
    }
    UNROLL for (int lanes = LANES; lanes > 1; lanes /= 2) {
        UNROLL for (int i = 0; i < LANES / 2; i++) {
            if (2 * i >= n) break;
            const NAMED(vector) one = left[2 * i], other = 2 * i + 1 < n ? left[2 * i + 1] : one;
            left[i] = NAMED(every)(one, other, 0) + NAMED(every)(one, other, 1);
        }
        n = (n + 1) / 2;
    }
    return left[0];
}

/* All products of a vector of pixels: `b_at` on in B, `g_at` on in G. */
static inline __attribute__((always_inline)) void NAMED(multiply_lanes)(const int rows, const int vectors,
                                                                        const TYPE *const *b, index_t b_at,
                                                                        const TYPE *const *g, index_t g_at,
                                                                        index_t count, NAMED(tile) sum) {
    NAMED(vector) g_lanes[MAX_TILE_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) g_lanes[v] = NAMED(load_lanes)(g[v] + g_at, count);
    UNROLL for (int m = 0; m < rows; m++) {
        const NAMED(vector) b_lanes = NAMED(load_lanes)(b[m] + b_at, count);
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] += b_lanes * g_lanes[v];
    }
}

/* `rows` rows of `vectors` channels, of which `channels` are kept. */
static inline __attribute__((always_inline)) void NAMED(dot_tile)(const int rows, const int vectors,
                                                                  const lines_sizes *z, const index_t *a_row,
                                                                  index_t lines, index_t width, index_t kept,
                                                                  index_t channels,
                                                                  const TYPE *b, index_t pitch, const TYPE *g,
                                                                  int add, TYPE *out) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    const index_t whole = width / LANES * LANES;
    const TYPE *b_row[MAX_TILE_ROWS], *g_row[MAX_TILE_VECTORS];
    NAMED(tile) sum;
    UNROLL for (int v = 0; v < vectors; v++) g_row[v] = g + (v < channels ? v : channels - 1) * z->g_channel;
    UNROLL for (int m = 0; m < rows; m++) {
        b_row[m] = b + a_row[m];
        UNROLL for (int v = 0; v < vectors; v++) sum[m][v] = (NAMED(vector)){0};
    }
    for (index_t p = 0; p < lines; p++) {
        for (index_t q = 0; q < whole; q += LANES)
            NAMED(multiply_lanes)(rows, vectors, b_row, p * pitch + q, g_row, p * z->g_line + q, LANES, sum);
        if (whole < width)
            NAMED(multiply_lanes)(rows, vectors, b_row, p * pitch + whole, g_row, p * z->g_line + whole,
                                  width - whole, sum);
    }
    UNROLL for (int v = 0; v < vectors; v++) {
        if (v >= channels) return;
        UNROLL for (int first = 0; first < rows; first += LANES) {
            const int count = rows - first < LANES ? rows - first : LANES;
            const index_t left = kept - first < count ? kept - first : count;
            if (left <= 0) break;
            NAMED(vector) of_rows[LANES];
            UNROLL for (int i = 0; i < count; i++) of_rows[i] = sum[first + i][v];
            NAMED(vector) total = NAMED(totals)(count, of_rows);
            TYPE *const to = out + v * z->out_channel + first;
            if (add) total += NAMED(load_lanes)(to, left);
            NAMED(store_lanes)(to, total, left);
        }
    }
}

/* A chunk of one image and group: (line, column, lines, columns) of grad_out. */
static inline __attribute__((always_inline)) void NAMED(dot)(const int rows, const int vectors, const lines_step *s,
                                                             const TYPE *x, const TYPE *g, const index_t *chunk,
                                                             int add, TYPE *out) {
    const lines_sizes *z = &s->sizes;
    const index_t line = chunk[0], column = chunk[1], lines = chunk[2], width = chunk[3];
    _Alignas(64) TYPE room[MAX_BAND_BYTES / sizeof(TYPE) + MAX_TILE];
    const TYPE *b = room;
    if (z->in_place) b = x + line * z->x_pitch + column;
    else
        NAMED(fill_band)(&s->band, x, z->channels, line, column, lines + z->more_lines, width + z->more_columns, room);
    g += line * z->g_line + column;
    for (index_t k = 0; k < z->k_per_group; k += vectors) {
        for (index_t m = 0; m < z->rows; m += rows) {
            NAMED(dot_tile)(rows, vectors, z, s->a_row + m, lines, width, z->rows - m, z->k_per_group - k, b,
                            z->x_pitch, g + k * z->g_channel, add, out + k * z->out_channel + m);
        }
    }
}
