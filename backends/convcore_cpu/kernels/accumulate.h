/* grad_weight by outer-product micro-kernels.
 *
 *     partial[part, group, m, j] += sum_{pixels of the part} A[group, m, pixel] * B[group, pixel, j]
 *
 * m runs over (c, r, s), j over the channels of grad_out, which lie in panels as wide as a tile; or, for a kernel of
 * one tap, m over the channels of grad_out and j over those of x.  Where a tile goes through all pixels at once
 * (`complete`) it is stored in the weight, `turned` or straight; that takes a panel that stays in the second-level
 * cache for all rows.  Otherwise partial sums are kept in the workspace: the pixels are gone through `lines_at_once`
 * lines of an image at a time, so that their part of B stays in cache for all rows.  Parts split the pixels where there
 * are too few tiles to keep threads busy; their number depends on the problem alone, and reduce.h adds them up in
 * order: the same bits on any number of threads.
 *
 * Where a part is all there is to a task, and so no other reads its pixels of B, the task turns them into panels itself
 * (`turn`), as many lines at a time as it then multiplies: in its scratch memory, which stays in the second-level
 * cache.
 *
 * The workspace starts as zeros, or as anything when there is but one batch.
 *
 * A task is some blocks of rows of one group and part.  Rows and lanes are padded to whole tiles.
 */
static void NAMED(store_straight)(const TYPE *tile, index_t columns, index_t wide, index_t high, TYPE *out,
                                  index_t out_row) {
    for (index_t m = 0; m < high; m++) memcpy(out + m * out_row, tile + m * columns, (size_t)wide * sizeof(TYPE));
}

/* As wide as a vector at a time, by shuffles, and the last rows one by one. */
static void NAMED(store_turned)(const micro_kernel *turn, const TYPE *tile, index_t columns, index_t wide, index_t high,
                                TYPE *out, index_t out_column) {
    const index_t lanes = turn ? turn->columns : high + 1, whole = high / lanes * lanes;
    const turn_loop loop = {columns, out_column, wide, 1};
    for (index_t m = 0; m < whole; m += lanes) {
        ((turn_function *)turn->function)(&loop, tile + m * columns, out + m);
    }
    for (index_t j = 0; j < wide; j++) {
        for (index_t m = whole; m < high; m++) out[j * out_column + m] = tile[m * columns + j];
    }
}

/* Turn `count` pixels of the channels of a group into panels, lanes past the last channel zero. */
static void NAMED(turn_pixels)(const accumulate_step *s, const TYPE *src, index_t count, int may_overrun,
                               TYPE *panels) {
    const accumulate_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, lanes = s->turn->columns;
    const turn_loop loop = {z->b_channel, columns, count, may_overrun};
    for (index_t k = 0; k < z->lanes; k += lanes) {
        TYPE *to = panels + k / columns * count * columns + k % columns;
        if (k + lanes <= z->columns) {
            ((turn_function *)s->turn->function)(&loop, src + k * z->b_channel, to);
            continue;
        }
        for (index_t j = 0; j < count; j++, to += columns) {
            for (index_t lane = 0; lane < lanes; lane++) {
                to[lane] = k + lane < z->columns ? src[(k + lane) * z->b_channel + j] : 0;
            }
        }
    }
}

static void NAMED(accumulate)(const void *step, char *const *buffers, index_t images, index_t task) {
    const accumulate_step *s = step;
    const accumulate_sizes *z = &s->sizes;
    panel_function *const multiply = (panel_function *)s->kernel->function;
    const index_t first_block = task % z->row_tasks * z->blocks_per_task;
    const index_t last_block =
        first_block + z->blocks_per_task < z->row_blocks ? first_block + z->blocks_per_task : z->row_blocks;
    const index_t group = task / z->row_tasks % z->groups, part = task / z->row_tasks / z->groups;
    const index_t lines = z->lines * (z->images ? z->images : images);
    const index_t first = lines * part / z->parts, last = lines * (part + 1) / z->parts;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer] + z->a_offset + group * z->a_group;
    const TYPE *b = (const TYPE *)buffers[z->b_buffer] + z->b_offset + group * z->b_group;
    TYPE *out = (TYPE *)buffers[WORKSPACE] + z->out_offset + part * z->out_part + group * z->out_group;
    TYPE *weight = (TYPE *)buffers[OUT] + group * z->columns * z->rows;
    const TYPE zeros[MAX_TILE_ROWS] = {0};
    const index_t tile_rows = s->kernel->rows, tile_columns = s->kernel->columns;
    panel_loop loop = {.length = z->length, .a_repeat = z->a_repeat, .b_repeat = z->b_repeat, .a_step = z->a_step};
    if (z->complete) {
        _Alignas(64) TYPE sums[MAX_BAND_BYTES / sizeof(TYPE) + MAX_LANES];
        const index_t tile_size = tile_rows * tile_columns,
                      at_once = (index_t)(MAX_BAND_BYTES / sizeof(TYPE)) / tile_size;
        loop.out_row = s->out_row;
        for (index_t j = 0; j < z->columns; j += tile_columns, b += z->b_panel) {
            const index_t wide = z->columns - j < tile_columns ? z->columns - j : tile_columns;
            for (index_t block = first_block; block < last_block; block += at_once) {
                const index_t blocks = last_block - block < at_once ? last_block - block : at_once;
                const index_t row = block * tile_rows, left = z->rows - row;
                const index_t high = left < blocks * tile_rows ? left : blocks * tile_rows;
                for (index_t i = 0; i < blocks; i++) {
                    loop.a_row = s->a_row + row + i * tile_rows;
                    loop.repeats = z->lines * z->repeats_per_line;
                    for (index_t line = first; line < last; line += z->lines) {
                        const index_t image = line / z->lines;
                        multiply(&loop, a + image * z->a_image, b + image * z->b_image, line == first ? zeros : NULL,
                                 sums + i * tile_size);
                    }
                }
                if (z->turned)
                    NAMED(store_turned)(s->turn, sums, tile_columns, wide, high, weight + j * z->rows + row, z->rows);
                else NAMED(store_straight)(sums, tile_columns, wide, high, weight + row * z->columns + j, z->columns);
            }
        }
        return;
    }
    for (index_t line = first, next; line < last; line = next) {
        const index_t image = line / z->lines, y = line % z->lines;
        next = (image + 1) * z->lines < last ? (image + 1) * z->lines : last;
        if (next > line + z->lines_at_once) next = line + z->lines_at_once;
        loop.repeats = (next - line) * z->repeats_per_line;
        const TYPE *panels = b + image * z->b_image + y * z->b_line;
        index_t panel_size = z->b_panel;
        if (s->turn) {
            const index_t pixels = (next - line) * z->length, after = (image + 1) * z->lines - next;
            TYPE *const turned = (TYPE *)buffers[SCRATCH];
            NAMED(turn_pixels)(s, panels, pixels, after * z->length >= MAX_LANES, turned);
            panels = turned, panel_size = pixels * tile_columns;
        }
        for (index_t block = first_block; block < last_block; block++) {
            const TYPE *panel = panels;
            loop.a_row = s->a_row + block * tile_rows;
            loop.out_row = s->out_row + block * tile_rows;
            for (index_t j = 0; j < z->lanes; j += tile_columns, panel += panel_size) {
                multiply(&loop, a + image * z->a_image + y * z->a_line, panel,
                         z->one_batch && line == first ? zeros : NULL, out + j);
            }
        }
    }
}
