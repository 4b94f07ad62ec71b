/* Winograd's products for few tiles and a large weight, whose points never leave the second-level cache.
 *
 *     out[image, row, i*m + a, j*m + b] = bias[row] + (A^T S A)[a][b],  S[point] = sum_l V[point, l, tile] * U[point,
 * l, row]
 *
 * U are the points of the weight as weights.h makes them, V those of the tiles as tiles.h does.  Here lanes are rows of
 * the weight and the rows of a micro-kernel's tile are tiles, so that a few tiles leave nothing unused.
 *
 * A task is as many rows as a micro-kernel has columns, and all tiles.  It takes `terms_at_once` channels at a time:
 * transforms what its rows have of the weight into the thread's scratch memory, and multiplies that with all tiles. The
 * sums of tiles, all points by columns each, are in the scratch memory behind it.  A weight that was packed before
 * needs no transform.
 *
 * Values that are not finite are reported as in multiply.h.
 */

/* Store the results of one tile, lanes of rows, as far as they are in the image. */
static void NAMED(store_lanes_of_tile)(const fused_step *s, const TYPE *results, index_t rows, index_t height,
                                       index_t width, const TYPE *bias, TYPE *out) {
    const fused_sizes *z = &s->sizes;
    const index_t line_m = s->transform->rows, column_m = s->along_lines->rows, lanes = s->transform->columns;
    for (index_t a = 0; a < line_m && a < height; a++) {
        for (index_t b = 0; b < column_m && b < width; b++) {
            const TYPE *from = results + (a * column_m + b) * lanes;
            TYPE *to = out + a * z->out_line + b * z->out_column;
            for (index_t row = 0; row < rows; row++) to[row * z->out_channel] = from[row] + (bias ? bias[row] : 0);
        }
    }
}

/* Transform the sums of one tile, a vector of rows, along its columns and its lines. */
static void NAMED(results_of_tile)(const fused_step *s, const TYPE *sums, TYPE *seen, TYPE *results) {
    const index_t lanes = s->transform->columns, line_m = s->transform->rows, column_m = s->along_lines->rows;
    const index_t column_n = s->sizes.column_n;
    _Alignas(64) TYPE half[MAX_RESULTS * MAX_POINTS * MAX_LANES];
    const transform_loop columns = {.in_offsets = s->in_offsets,
                                    .out_offsets = s->half_offsets,
                                    .vectors = 1,
                                    .groups = column_n,
                                    .in_group = s->kernel->columns,
                                    .out_group = lanes};
    const transform_loop lines = {.in_offsets = s->line_offsets,
                                  .out_offsets = s->line_offsets,
                                  .vectors = 1,
                                  .seen = seen,
                                  .groups = line_m,
                                  .in_group = column_n * lanes,
                                  .out_group = column_m * lanes};
    ((transform_function *)s->transform->function)(&columns, sums, half);
    ((transform_function *)s->along_lines->function)(&lines, half, results);
}

static void NAMED(fused)(const void *step, char *const *buffers, index_t images, index_t task) {
    const fused_step *s = step;
    const fused_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, tile_rows = s->kernel->rows;
    const index_t u_lanes = s->weights.kernel->columns, tile_size = z->points * columns;
    const index_t first_row = task * columns, left = z->rows - first_row, rows = left < columns ? left : columns;
    const TYPE *weight = (const TYPE *)buffers[SECOND];
    const TYPE *v = (const TYPE *)buffers[WORKSPACE] + z->v_offset;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + first_row;
    const TYPE zeros[MAX_TILE_ROWS] = {0};
    TYPE *const scratch = (TYPE *)buffers[SCRATCH], *const sums = scratch + z->sums_offset;
    const TYPE *const u = z->prepacked ? weight + task * z->points * z->u_point : scratch;
    panel_loop loop = {.repeats = 1, .a_step = z->v_step};
    _Alignas(64) TYPE seen[MAX_LANES] = {0};
    (void)images;
    for (index_t term = 0; term < z->terms; term += z->terms_at_once) {
        const index_t end = term + z->terms_at_once < z->terms ? term + z->terms_at_once : z->terms;
        for (index_t row = 0; row < rows && !z->prepacked; row += u_lanes) {
            NAMED(transform_weights)(&s->weights, weight, first_row + row, term, end, columns, scratch + row);
        }
        loop.length = (end - term) * z->pieces;
        for (index_t tile = 0; tile < z->tiles; tile += tile_rows) {
            loop.a_row = s->a_row + tile;
            loop.out_row = s->tile_row + tile;
            for (index_t point = 0; point < z->points; point++) {
                ((panel_function *)s->kernel->function)(&loop, v + point * z->v_point + term * z->pieces * z->v_step,
                                                        u + point * z->u_point, term ? NULL : zeros,
                                                        sums + point * columns);
            }
        }
    }
    for (index_t tile = 0; tile < z->tiles; tile++) {
        const index_t per_image = z->tile_lines * z->tile_columns, at = tile % per_image;
        const index_t i = at / z->tile_columns * s->transform->rows;
        const index_t j = at % z->tile_columns * s->along_lines->rows;
        TYPE *out = (TYPE *)buffers[OUT] + tile / per_image * z->out_image + first_row * z->out_channel +
                    i * z->out_line + j * z->out_column;
        _Alignas(64) TYPE results[MAX_RESULTS * MAX_RESULTS * MAX_LANES];
        for (index_t lane = 0; lane < rows; lane += u_lanes) {
            const index_t wide = rows - lane < u_lanes ? rows - lane : u_lanes;
            NAMED(results_of_tile)(s, sums + tile * tile_size + lane, seen, results);
            NAMED(store_lanes_of_tile)(s, results, wide, z->height - i, z->width - j, bias ? bias + lane : NULL,
                                       out + lane * z->out_channel);
        }
    }
    NAMED(report_not_finite)(seen, buffers);
}
