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
 * sums of a block of rows, all points by lanes each, live on the stack.  They are transformed along the columns of
 * tiles first; then along their lines, as the pixels of neighbouring tiles, straight to the result.
 *
 * A value that is not finite has smeared over its tile: one is reported, and the plan computes again without
 * transforms.
 */

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

/* Report values that were not finite. */
static void NAMED(report_not_finite)(const TYPE *seen, char *const *buffers) {
    for (int lane = 0; lane < MAX_LANES; lane++) {
        if (seen[lane] != 0) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
    }
}

/* Store lines of pixels, the results of a line of tiles. */
static void NAMED(store_pixels)(const multiply_step *s, transform_loop *loop, const TYPE *half, TYPE *out) {
    const index_t step = s->sizes.out_column, pitch = MAX_RESULTS * MAX_TILE_COLUMNS;
    _Alignas(64) TYPE pixels[MAX_RESULTS * MAX_RESULTS * MAX_TILE_COLUMNS];
    loop->out_line = step == 1 ? s->sizes.out_line : pitch;
    ((transform_function *)s->output->function)(loop, half, step == 1 ? out : pixels);
    for (index_t a = 0; step != 1 && a < loop->lines; a++, out += s->sizes.out_line) {
        for (index_t x = 0; x < loop->count; x++) out[x * step] = pixels[a * pitch + x];
    }
}

/* Transform the sums of some rows of a block of tiles to results, and store those. */
static void NAMED(store_rows)(const multiply_step *s, char *const *buffers, index_t images, index_t block,
                              index_t first_row, index_t rows, const TYPE *sums) {
    const multiply_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns, line_m = s->transform->rows, column_m = s->output->rows;
    const index_t first_tile = (z->first_block + block) * lanes, per_image = z->tile_lines * z->tile_columns;
    const index_t left_over = per_image * images - first_tile, tiles = left_over < lanes ? left_over : lanes;
    const transform_loop columns = {.in_offsets = s->in_offsets,
                                    .out_offsets = s->out_offsets,
                                    .vectors = lanes / s->transform->columns,
                                    .groups = z->column_n,
                                    .in_group = lanes,
                                    .out_group = lanes};
    _Alignas(64) TYPE seen[MAX_LANES] = {0}, half[MAX_RESULTS * MAX_POINTS * MAX_TILE_COLUMNS + MAX_LANES];
    /* Zeros behind, for what is read past the last lane. */
    memset(half + line_m * z->column_n * lanes, 0, MAX_LANES * sizeof(TYPE));
    for (index_t r = 0; r < rows; r++, sums += z->points * lanes) {
        TYPE *out = (TYPE *)buffers[OUT] + s->out_row[first_row + r];
        transform_loop lines = {.in_group = lanes, .in_line = z->column_n * lanes, .seen = seen};
        ((transform_function *)s->transform->function)(&columns, sums, half);
        for (index_t lane = 0; lane < tiles;) {
            const index_t tile = first_tile + lane, i = tile % per_image / z->tile_columns;
            const index_t j = tile % z->tile_columns, height = z->height - i * line_m, width = z->width - j * column_m;
            const index_t run = z->tile_columns - j < tiles - lane ? z->tile_columns - j : tiles - lane;
            lines.count = width < run * column_m ? width : run * column_m;
            lines.lines = height < line_m ? height : line_m;
            NAMED(store_pixels)(s, &lines, half + lane,
                                out + tile / per_image * z->out_image + i * line_m * z->out_line +
                                    j * column_m * z->out_column);
            lane += run;
        }
    }
    NAMED(report_not_finite)(seen, buffers);
}

/* Multiply a block of tiles, whose points are at `v`, by rows first_row .. last_row-1, and store the results. */
static void NAMED(multiply_block)(const multiply_step *s, char *const *buffers, index_t images, index_t block,
                                  index_t first_row, index_t last_row, const TYPE *v) {
    const multiply_sizes *z = &s->sizes;
    const index_t tile_rows = s->kernel->rows;
    const TYPE *u = (const TYPE *)buffers[WORKSPACE] + z->a_offset;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer];
    _Alignas(64) TYPE sums[MAX_POINTS * MAX_POINTS * MAX_TILE];
    if ((z->first_block + block) * s->kernel->columns >= z->tile_lines * z->tile_columns * images) return;
    for (index_t row = first_row; row < last_row; row += tile_rows) {
        const index_t rows = last_row - row < tile_rows ? last_row - row : tile_rows;
        TYPE init[MAX_TILE_ROWS] = {0};
        for (index_t r = 0; bias && r < rows; r++) init[r] = bias[row + r];
        NAMED(multiply_points)(s, s->a_row + (row - z->first_row), u, v, init, sums);
        NAMED(store_rows)(s, buffers, images, block, row, rows, sums);
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
