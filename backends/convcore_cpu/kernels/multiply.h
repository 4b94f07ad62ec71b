/* The products of a Winograd correlation, and the transform of their sums to results.
 *
 *     out[image, row, i*m + a, j*m + b] = bias[row] + (A^T S A)[a][b],  S[point] = sum_l U[point, row, l] * V[block,
 * point, l, lane]
 *
 * Tile (image, i, j) is lane `lane` of block `block`, numbered as in tiles.h; the results of a tile that stick out of
 * the image are dropped.
 *
 * The bias is added to the sums of one point, that of (1, 1), which every result of a tile has once.
 *
 * A task is one block of tiles by some blocks of rows: V's block stays in cache while the rows of U stream by.  The
 * sums of a block of rows, (m+2)^2 points by lanes each, live on the stack.
 *
 * A value that is not finite has smeared over its tile: one is reported, and the plan computes again without
 * transforms.
 */

/* Store lines of results, m for each line of tiles, as far as they are in the image. */
static inline void NAMED(store_lines)(const multiply_sizes *z, index_t m, const TYPE *results, index_t pitch,
                                      index_t height, index_t width, TYPE *out) {
    for (index_t a = 0; a < m && a < height; a++, out += z->out_line, results += pitch) {
        if (z->out_column == 1) memcpy(out, results, (size_t)width * sizeof(TYPE));
        else
            for (index_t x = 0; x < width; x++) out[x * z->out_column] = results[x];
    }
}

/* A vector of tiles; with `in_place`, whose lines are whole in the result, where that has its first pixel. */
typedef struct {
    const tile_run *runs, *end;
    index_t at;
    int in_place;
} NAMED(result_vector);

/* List the vectors of a block of tiles; return how many there are. */
static index_t NAMED(vectors_of)(const multiply_step *s, index_t first_tile, index_t tiles, tile_run *run,
                                 NAMED(result_vector) * vectors) {
    const multiply_sizes *z = &s->sizes;
    const index_t m = s->transform->rows, lanes = s->transform->columns;
    index_t found = 0;
    for (index_t lane = 0; lane < tiles; lane += lanes, found++) {
        tile_run *const end = runs_of_tiles(z->tile_lines, z->tile_columns, m, first_tile + lane,
                                            tiles - lane < lanes ? tiles - lane : lanes, run);
        const int is_whole = run->count == lanes && run->y + m <= z->height && run->x + lanes * m <= z->width;
        const index_t at = run->image * z->out_image + run->y * z->out_line + run->x;
        vectors[found] = (NAMED(result_vector)){run, end, at, is_whole && z->out_column == 1};
        run = end;
    }
    return found;
}

/* Add up, for a block of rows and all points, the products of all channels. */
static void NAMED(multiply_points)(const multiply_step *s, const index_t *a_row, const TYPE *u, const TYPE *v,
                                   const TYPE *bias, TYPE *sums) {
    const multiply_sizes *z = &s->sizes;
    const panel_loop loop = {
        .repeats = 1, .length = z->length, .a_step = z->a_step, .a_row = a_row, .out_row = s->tile_row};
    const TYPE zeros[MAX_TILE_ROWS] = {0};
    for (index_t point = 0; point < z->points; point++) {
        ((panel_function *)s->kernel->function)(&loop, u + point * z->a_point, v + point * z->b_point,
                                                point == z->bias_point ? bias : zeros,
                                                sums + point * s->kernel->columns);
    }
}

/* Transform the sums of some rows of a block of tiles to results, and store those. */
static void NAMED(store_rows)(const multiply_step *s, char *const *buffers, const NAMED(result_vector) * vectors,
                              index_t count, index_t first_row, index_t rows, const TYPE *sums) {
    const multiply_sizes *z = &s->sizes;
    const index_t m = s->transform->rows, lanes = s->transform->columns;
    int not_finite = 0;
    index_t in_place[MAX_POINTS];
    const transform_loop whole = {s->in_offsets, in_place, 1, &not_finite};
    const transform_loop apart = {s->in_offsets, s->out_offsets, 1, &not_finite};
    _Alignas(64) TYPE results[4 * 4 * MAX_LANES];
    for (index_t a = 0; a < m; a++) in_place[a] = a * z->out_line;
    for (index_t r = 0; r < rows; r++, sums += z->points * s->kernel->columns) {
        TYPE *out = (TYPE *)buffers[OUT] + s->out_row[first_row + r];
        for (index_t i = 0; i < count; i++) {
            const tile_run *run = vectors[i].runs;
            const transform_loop *loop = vectors[i].in_place ? &whole : &apart;
            TYPE *to = vectors[i].in_place ? out + vectors[i].at : results;
            ((transform_function *)s->transform->function)(loop, sums + i * lanes, to);
            for (; run < vectors[i].end && !vectors[i].in_place; run++) {
                const index_t left = z->width - run->x, width = left < run->count * m ? left : run->count * m;
                NAMED(store_lines)(z, m, results + run->lane * m, lanes * m, z->height - run->y, width,
                                   out + run->image * z->out_image + run->y * z->out_line + run->x * z->out_column);
            }
        }
    }
    if (not_finite) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
}

/* Multiply a block of tiles, whose points are at `v`, by rows first_row .. last_row-1, and store the results. */
static void NAMED(multiply_block)(const multiply_step *s, char *const *buffers, index_t images, index_t block,
                                  index_t first_row, index_t last_row, const TYPE *v) {
    const multiply_sizes *z = &s->sizes;
    const index_t tile_rows = s->kernel->rows, first_tile = (z->first_block + block) * s->kernel->columns;
    const index_t left_over = z->tile_lines * z->tile_columns * images - first_tile;
    const index_t tiles = left_over < s->kernel->columns ? left_over : s->kernel->columns;
    const TYPE *u = (const TYPE *)buffers[WORKSPACE] + z->a_offset;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer];
    _Alignas(64) TYPE sums[MAX_POINTS * MAX_POINTS * MAX_TILE];
    tile_run runs[MAX_TILE_COLUMNS];
    NAMED(result_vector) vectors[MAX_TILE_VECTORS];
    if (tiles <= 0) return;
    const index_t count = NAMED(vectors_of)(s, first_tile, tiles, runs, vectors);
    for (index_t row = first_row; row < last_row; row += tile_rows) {
        const index_t rows = last_row - row < tile_rows ? last_row - row : tile_rows;
        TYPE init[MAX_TILE_ROWS] = {0};
        for (index_t r = 0; bias && r < rows; r++) init[r] = bias[row + r];
        NAMED(multiply_points)(s, s->a_row + (row - z->first_row), u, v, init, sums);
        NAMED(store_rows)(s, buffers, vectors, count, row, rows, sums);
    }
}

static void NAMED(multiply)(const void *step, char *const *buffers, index_t images, index_t task) {
    const multiply_step *s = step;
    const multiply_sizes *z = &s->sizes;
    const index_t block = task / z->row_tasks, first_row = z->first_row + task % z->row_tasks * z->rows_per_task;
    const index_t last_row = first_row + z->rows_per_task < z->last_row ? first_row + z->rows_per_task : z->last_row;
    NAMED(multiply_block)(s, buffers, images, block, first_row, last_row,
                          (const TYPE *)buffers[WORKSPACE] + z->b_offset + block * z->b_block);
}
