/* The products of a Winograd correlation, and the transform of their sums to results.
 *
 *     out[image, row, i*m + a, j*m + b] = bias[row] + (A^T S A)[a][b],  S[point] = sum_l U[point, row, l] * V[block,
 * point, l, lane]
 *
 * Tile (image, i, j) is lane `lane` of block `block`, numbered as in tiles.h; the results of a tile that stick out of
 * the image are dropped.
 *
 * A task is one block of tiles by some blocks of rows: V's block stays in cache while the rows of U stream by.  The
 * sums of a block of rows, (m+2)^2 points by lanes each, live on the stack.
 *
 * A value that is not finite has smeared over its tile: one is reported, and the plan computes again without
 * transforms.
 */

/* Store lines of results, m for each line of tiles, as far as they are in the image. */
static inline void NAMED(store_lines)(const multiply_sizes *z, index_t m, const TYPE *results, index_t pitch,
                                      index_t height, index_t width, TYPE bias, TYPE *out) {
    for (index_t a = 0; a < m && a < height; a++, out += z->out_line, results += pitch) {
        if (z->out_column == 1)
            for (index_t x = 0; x < width; x++) out[x] = results[x] + bias;
        else
            for (index_t x = 0; x < width; x++) out[x * z->out_column] = results[x] + bias;
    }
}

/* Add up, for a block of rows and all points, the products of all channels. */
static void NAMED(multiply_points)(const multiply_step *s, const index_t *a_row, const TYPE *u, const TYPE *v,
                                   TYPE *sums) {
    const multiply_sizes *z = &s->sizes;
    const panel_loop loop = {
        .repeats = 1, .length = z->length, .a_step = z->a_step, .a_row = a_row, .out_row = s->tile_row};
    const TYPE zeros[MAX_TILE_ROWS] = {0};
    for (index_t point = 0; point < z->points; point++) {
        ((panel_function *)s->kernel->function)(&loop, u + point * z->a_point, v + point * z->b_point, zeros,
                                                sums + point * s->kernel->columns);
    }
}

/* Transform the sums of some rows of a block of tiles to results, and store those. */
static void NAMED(store_rows)(const multiply_step *s, char *const *buffers, index_t images, index_t block,
                              index_t first_row, index_t rows, const TYPE *sums) {
    const multiply_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, m = s->transform->rows;
    const index_t first_tile = (z->first_block + block) * lanes, per_image = z->tile_lines * z->tile_columns;
    const index_t left_over = per_image * images - first_tile, tiles = left_over < lanes ? left_over : lanes;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer];
    int not_finite = 0;
    const transform_loop to_results = {s->in_offsets, s->out_offsets, lanes / s->transform->columns, &not_finite};
    _Alignas(64) TYPE results[4 * 4 * MAX_TILE_COLUMNS];
    for (index_t r = 0; r < rows; r++, sums += z->points * lanes) {
        const TYPE add = bias ? bias[first_row + r] : 0;
        TYPE *out = (TYPE *)buffers[OUT] + s->out_row[first_row + r];
        ((transform_function *)s->transform->function)(&to_results, sums, results);
        for (index_t lane = 0; lane < tiles;) {
            const index_t tile = first_tile + lane, i = tile % per_image / z->tile_columns;
            const index_t j = tile % z->tile_columns, height = z->height - i * m, width = z->width - j * m;
            const index_t run = z->tile_columns - j < tiles - lane ? z->tile_columns - j : tiles - lane;
            TYPE *at = out + tile / per_image * z->out_image + i * m * z->out_line + j * m * z->out_column;
            NAMED(store_lines)(z, m, results + lane * m, lanes * m, height, width < run * m ? width : run * m, add, at);
            lane += run;
        }
    }
    if (not_finite) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
}

static void NAMED(multiply)(const void *step, char *const *buffers, index_t images, index_t task) {
    const multiply_step *s = step;
    const multiply_sizes *z = &s->sizes;
    const index_t tile_rows = s->kernel->rows, block = task / z->row_tasks;
    const index_t first_row = z->first_row + task % z->row_tasks * z->rows_per_task;
    const index_t last_row = first_row + z->rows_per_task < z->last_row ? first_row + z->rows_per_task : z->last_row;
    const TYPE *u = (const TYPE *)buffers[WORKSPACE] + z->a_offset;
    const TYPE *v = (const TYPE *)buffers[WORKSPACE] + z->b_offset + block * z->b_block;
    _Alignas(64) TYPE sums[MAX_POINTS * MAX_POINTS * MAX_TILE];
    if ((z->first_block + block) * s->kernel->columns >= z->tile_lines * z->tile_columns * images) return;
    for (index_t row = first_row; row < last_row; row += tile_rows) {
        const index_t rows = last_row - row < tile_rows ? last_row - row : tile_rows;
        NAMED(multiply_points)(s, s->a_row + (row - z->first_row), u, v, sums);
        NAMED(store_rows)(s, buffers, images, block, row, rows, sums);
    }
}
