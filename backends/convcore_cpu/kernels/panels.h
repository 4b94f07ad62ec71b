/* Forward and grad_input by panel micro-kernels.
 *
 *     out[image, group, m, p, q] = bias[group, m] + sum_{c, tap} A[group, m, c, tap] * B[image, group, c, p*pitch + q +
 * tap's offset]
 *
 * Pixels are numbered through lines and images, and nothing between two lines is computed.  The pixels of a tile are
 * copied to a panel, term by term and of all tiles of a task at a time (collect.h), and all rows of A are gone through
 * with it: one read and one write of an element for as many multiplications as a group has rows.  A is read where it
 * lies.
 *
 * A task is some tiles of one group by some blocks of rows.  It takes `channels_at_once` channels at a time, so that
 * its panels stay in the second-level cache and the rows of A it meets them with in the first.  A full tile whose
 * pixels lie side by side in the result is added up there, any other in the thread's scratch memory: panels first, then
 * tiles of sums.
 *
 * `watch_nan` as in correlate.h.
 */

/* List the runs of pixels first .. first+count-1, where lines and images lie so far apart; return how many there are.
 */
static index_t NAMED(runs_of)(index_t first, index_t count, index_t lines, index_t width, index_t image, index_t line,
                              index_t column, pixel_run *runs) {
    index_t found = 0;
    if (line == width * column) width *= lines, lines = 1;
    for (index_t lane = 0; lane < count; found++) {
        const index_t pixel = first + lane, q = pixel % width, p = pixel / width;
        const index_t run = width - q < count - lane ? width - q : count - lane;
        runs[found] = (pixel_run){lane, run, p / lines * image + p % lines * line + q * column};
        lane += run;
    }
    return found;
}

static void NAMED(store_runs)(const TYPE *tile, index_t columns, const pixel_run *runs, index_t count,
                              const index_t *out_row, index_t rows, index_t column, TYPE *out) {
    for (index_t m = 0; m < rows; m++, tile += columns) {
        for (const pixel_run *run = runs; run < runs + count; run++) {
            const TYPE *from = tile + run->lane;
            TYPE *to = out + out_row[m] + run->at;
            if (column == 1) memcpy(to, from, (size_t)run->count * sizeof(TYPE));
            else
                for (index_t j = 0; j < run->count; j++) to[j * column] = from[j];
        }
    }
}

static void NAMED(panels)(const void *step, char *const *buffers, index_t images, index_t task) {
    const panels_step *s = step;
    const panels_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, tile_rows = s->kernel->rows;
    panel_function *const multiply = (panel_function *)s->kernel->function;
    const index_t first_block = task % z->row_tasks * z->blocks_per_task;
    const index_t group = task / z->row_tasks / z->tile_tasks;
    const index_t first_pixel = task / z->row_tasks % z->tile_tasks * z->tiles_per_task * columns;
    const index_t left = images * z->lines * z->width - first_pixel, most = z->tiles_per_task * columns;
    const index_t pixels = left < most ? left : most, tiles = (pixels + columns - 1) / columns;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer] + z->a_offset + group * z->a_group;
    const TYPE *b = (const TYPE *)buffers[z->b_buffer] + z->b_offset + group * z->b_group;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + group * z->out_group;
    TYPE *panels = (TYPE *)buffers[SCRATCH], *sums = panels + z->sums_offset;
    const index_t panel = z->panel, tile_size = tile_rows * columns;
    pixel_run in[MAX_PIXELS_PER_TASK], to[MAX_PIXELS_PER_TASK]; /* to: those of a tile begin at its first pixel */
    index_t in_count = 0, to_count[MAX_TILES_PER_TASK];
    TYPE init[MAX_TILE_ROWS] = {0};
    int nan_seen = 0;
    if (pixels <= 0) return; /* of a short last batch */
    for (index_t t = 0; t < tiles; t++) {
        const index_t first = first_pixel + t * columns, count = pixels - t * columns;
        const index_t lanes = count < columns ? count : columns;
        const index_t before = in_count;
        in_count += NAMED(runs_of)(first, lanes, z->lines, z->width, z->b_image, z->pitch, z->b_column, in + before);
        for (index_t run = before; run < in_count; run++) in[run].lane += t * panel;
        to_count[t] = NAMED(runs_of)(first, lanes, z->lines, z->width, z->out_image, z->out_line, z->out_column,
                                     to + t * columns);
    }
    for (index_t channel = 0; channel < z->channels || !channel; channel += z->channels_at_once) {
        const index_t rest = z->channels - channel, chunk = channel / z->channels_at_once;
        const index_t channels = rest < z->channels_at_once ? rest : z->channels_at_once;
        const int last = rest <= z->channels_at_once, parts = z->channels > z->channels_at_once;
        panel_loop loop = {.repeats = z->even ? 1 : channels,
                           .length = z->even ? channels * z->taps : z->taps,
                           .a_repeat = z->a_repeat,
                           .b_repeat = z->taps * columns,
                           .a_step = z->a_step};
        const collect_loop collect = {.runs = in,
                                      .count = in_count,
                                      .offsets = s->offsets,
                                      .length = channels * z->taps,
                                      .columns = columns,
                                      .may_overrun = (int)z->may_overrun,
                                      .step = z->b_column};
        if (pixels < tiles * columns) memset(panels + (tiles - 1) * panel, 0, (size_t)panel * sizeof(TYPE));
        ((collect_function *)s->collect->function)(&collect, b + chunk * z->b_chunk, panels);
        for (index_t block = 0; block < z->blocks_per_task; block++) {
            const index_t row = (first_block + block) * tile_rows;
            const index_t rows = row + tile_rows <= z->rows ? tile_rows : z->rows - row;
            if (rows <= 0) break;
            for (index_t m = 0; bias && m < rows; m++) init[m] = bias[row + m];
            loop.a_row = s->a_row + row;
            for (index_t t = 0; t < tiles; t++) {
                const pixel_run *const runs = to + t * columns;
                const int in_place =
                    to_count[t] == 1 && runs->count == columns && z->out_column == 1 && rows == tile_rows;
                TYPE *tile = in_place ? out + runs->at : sums + ((parts ? block * tiles : 0) + t) * tile_size;
                loop.out_row = in_place ? s->out_row + row : s->tile_row;
                multiply(&loop, a + chunk * z->a_chunk, panels + t * panel, chunk ? NULL : init, tile);
                if (!last) continue;
                /* What was copied past the last plane may be anything. */
                const index_t pixels_left = pixels - t * columns;
                const index_t lanes = pixels_left < columns ? pixels_left : columns;
                for (index_t m = 0; z->watch_nan && m < rows; m++) {
                    nan_seen |= NAMED(has_nan)(tile + loop.out_row[m], lanes);
                }
                if (!in_place)
                    NAMED(store_runs)(tile, columns, runs, to_count[t], s->out_row + row, rows, z->out_column, out);
            }
        }
    }
    if (nan_seen) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
}
