/* Forward and grad_input by outer-product micro-kernels.
 *
 *     out[image, group, m, p, q] = bias[group, m] + sum_l A[group, m, l] * B[image, group, l, p*pitch + q]
 *
 * Pixels are numbered over the pitch of B's planes, i = p*pitch + q, so that a tile of neighbouring i may run across
 * the ends of lines; the pitch - width results between two lines are computed and dropped.  The last tile is moved
 * back to end at the last pixel, so B is never read past the pixels it must have; what was stored already is not
 * stored again.
 *
 * A task is some tiles of pixels of one group and image, by some blocks of rows: B's part of the tiles stays in cache
 * while the rows of A stream by.  Neighbouring tiles of a block follow each other, so that lines of the result are
 * written as far as they go, which a processor foresees.  Tiles are written in place, by runs where there are pixels to
 * drop (outer.h); only what is strided, or to be looked at, goes through a buffer on the stack.
 *
 * Where lines of the result have the pixels of two gathers in turns (`interleaved`), a tile is one of each, numbered
 * alike: the other one's offsets follow, and its results are stored between the first one's.
 *
 * Where B's planes are padded with zeros that the formula does not have (grad_input), a zero times an infinite weight
 * is a NaN that must not be: `watch_nan` reports any NaN, and exact.h then does the step again.
 */
static void NAMED(store_tile)(const TYPE *tile, const correlate_step *s, index_t row, index_t rows, index_t start,
                              index_t lo, index_t hi, TYPE *out) {
    const correlate_sizes *z = &s->sizes;
    while (lo < hi) {
        const index_t line = lo / z->pitch, column = lo % z->pitch;
        const index_t line_end = lo - column + z->pitch < hi ? lo - column + z->pitch : hi;
        const index_t kept = line_end - lo < z->width - column ? line_end - lo : z->width - column;
        if (z->interleaved == 2) {
            const index_t left = z->width + z->other_width - 2 * column;
            const interleave_loop loop = {s->tile_row, s->out_row + row, rows, MAX_TILE,
                                          2 * kept < left ? 2 * kept : left};
            ((interleave_function *)s->interleave->function)(&loop, tile + (lo - start),
                                                             out + line * z->out_line + column * z->out_column);
        }
        for (index_t m = 0; z->interleaved == 1 && m < rows; m++) {
            const TYPE *from = tile + s->tile_row[m] + (lo - start);
            TYPE *to = out + s->out_row[row + m] + line * z->out_line + column * z->out_column;
            if (z->out_column == 1 && kept > 0) memcpy(to, from, (size_t)kept * sizeof(TYPE));
            else
                for (index_t j = 0; j < kept; j++) to[j * z->out_column] = from[j];
        }
        lo = line_end;
    }
}

static int NAMED(has_nan)(const TYPE *tile, index_t count) {
    const TYPE *const same = tile; /* under a second name, since of integers a compiler thinks this a mistake */
    int found = 0;
    for (index_t j = 0; j < count; j++) found |= tile[j] != same[j];
    return found;
}

/* The pixels `lo` .. `hi`-1, of those of a tile that begins at `start`; how they are stored, and where. */
typedef struct {
    index_t start, lo, hi;
    enum tile_way way;
    lane_runs runs[MAX_TILE_VECTORS];
} NAMED(pixel_tile);

/* List the runs of a tile's vectors; return 0 if some vector lies in too many lines. */
static int NAMED(list_runs)(const correlate_sizes *z, index_t lanes, NAMED(pixel_tile) * tile) {
    for (int v = 0; v < MAX_TILE_VECTORS; v++) tile->runs[v] = (lane_runs){0};
    for (index_t lo = tile->lo; lo < tile->hi;) {
        const index_t line = lo / z->pitch, column = lo % z->pitch, line_end = lo - column + z->pitch;
        const index_t end = line_end - z->pitch + z->width < tile->hi ? line_end - z->pitch + z->width : tile->hi;
        for (index_t lane = lo - tile->start; lane < end - tile->start;) {
            lane_runs *const run = tile->runs + lane / lanes;
            const index_t from = lane % lanes, left = end - tile->start - lane;
            const index_t to = left < lanes - from ? from + left : lanes;
            const index_t at = line * z->out_line + column + tile->start + lane - from - lo;
            if (from == 0) run->at = at, run->kept = to;
            else if (run->to == 0) run->next = at, run->from = from, run->to = to;
            else return 0;
            lane += to - from;
        }
        lo = line_end;
    }
    return 1;
}

static void NAMED(place_tile)(const correlate_step *s, index_t index, index_t pixels, NAMED(pixel_tile) * tile) {
    const correlate_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, lo = index * columns;
    tile->lo = lo;
    tile->hi = lo + columns < pixels ? lo + columns : pixels;
    tile->start = lo + columns <= pixels || pixels < columns ? lo : pixels - columns;
    if (z->watch_nan || z->out_column != 1) {
        tile->way = BUFFERED;
    } else if (tile->start == lo && tile->hi - lo == columns && z->out_line == z->pitch && z->width == z->pitch) {
        tile->way = SIDE_BY_SIDE;
    } else {
        tile->way = NAMED(list_runs)(z, s->kernel->vector_bytes / (index_t)sizeof(TYPE), tile) ? IN_RUNS : BUFFERED;
    }
}

static void NAMED(correlate)(const void *step, char *const *buffers, index_t images, index_t task) {
    const correlate_step *s = step;
    const correlate_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, tile_rows = s->kernel->rows;
    outer_function *const outer = (outer_function *)s->kernel->function;
    const index_t first_block = task % z->row_tasks * z->blocks_per_task;
    const index_t first_tile = task / z->row_tasks % z->tile_tasks * z->tiles_per_task;
    const index_t most_tiles = z->tiles - first_tile;
    const index_t tiles = most_tiles < z->tiles_per_task ? most_tiles : z->tiles_per_task;
    const index_t group = task / z->row_tasks / z->tile_tasks % z->groups;
    const index_t image = task / z->row_tasks / z->tile_tasks / z->groups;
    const index_t pixels = z->pixels;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer] + z->a_offset + image * z->a_image + group * z->a_group;
    const TYPE *b = (const TYPE *)buffers[z->b_buffer] + z->b_offset + image * z->b_image + group * z->b_group;
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + image * z->out_image + group * z->out_group;
    outer_loop loop = {.offsets = s->offsets, .length = z->length, .repeats = 1};
    TYPE init[MAX_TILE_ROWS] = {0};
    NAMED(pixel_tile) at[MAX_TILES_PER_TASK];
    outer_loop other = {.offsets = s->offsets + 2 * z->length, .length = z->other_length, .repeats = 1};
    _Alignas(64) TYPE buffer[2 * MAX_TILE + MAX_LANES]; /* room for what is read past the last pixel */
    int nan_seen = 0;
    (void)images;
    for (index_t t = 0; t < tiles; t++) NAMED(place_tile)(s, first_tile + t, pixels, at + t);
    for (index_t block = first_block; block < first_block + z->blocks_per_task; block++) {
        const index_t row = block * tile_rows;
        const index_t rows = row + tile_rows <= z->rows ? tile_rows : z->rows - row;
        if (rows <= 0) break;
        /* Rows past the last one are that one again, and stored where it is. */
        for (index_t m = 0; bias && m < tile_rows; m++) init[m] = bias[row + (m < rows ? m : rows - 1)];
        loop.a_row = s->a_row + row;
        for (index_t t = 0; t < tiles; t++) {
            const index_t start = at[t].start, lanes = pixels - start < columns ? pixels - start : columns;
            loop.runs = at[t].way == IN_RUNS ? at[t].runs : NULL;
            loop.out_row = at[t].way == BUFFERED ? s->tile_row : s->out_row + row;
            if (at[t].way != BUFFERED) {
                outer(&loop, a, b + start, init, at[t].way == IN_RUNS ? out : out + start);
                continue;
            }
            outer(&loop, a, b + start, init, buffer);
            if (z->interleaved == 2) {
                other.a_row = loop.a_row, other.out_row = loop.out_row;
                outer(&other, a, b + start, init, buffer + MAX_TILE);
            }
            /* What lies past the last plane may be anything. */
            for (index_t m = 0; z->watch_nan && m < rows; m++) {
                nan_seen |= NAMED(has_nan)(buffer + s->tile_row[m], lanes);
                if (z->interleaved == 2) nan_seen |= NAMED(has_nan)(buffer + MAX_TILE + s->tile_row[m], lanes);
            }
            NAMED(store_tile)(buffer, s, row, rows, start, at[t].lo, at[t].hi, out);
        }
    }
    if (nan_seen) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
}
