/* Forward and grad_input by panel micro-kernels whose lanes are channels of the result.
 *
 *     out[image, group, k, p, q] = bias[group, k] + sum_{c, tap} band[c, p*pitch + q + tap's offset]
 *                                                                * A[group, k / columns, c, tap, k % columns]
 *
 * What panels.h computes, the other way round: the weight is the packed side, once for all pixels, and pixels are read
 * one at a time and broadcast.  Nothing is copied for each tap, so this is the way for kernels of many taps, and for
 * strides; the weight is read again for every tile, which is what few pixels or many channels cost.
 *
 * A task is one piece of the result of some panels of a group: all gathers of it (the phases of a strided grad_input).
 * It takes `channels_at_once` channels at a time and brings what they need into a band (band.h), line by line and
 * within a line channel by channel, so that a tile reads from few pages and stays in the first-level cache while it
 * meets all panels.  The thread's scratch memory holds the sums of (gather, panel) as [pixel][lane], then some pixels
 * turned to be stored, then the band.  Gathers whose pixels stand in turns in the lines of the result (`interleaved`)
 * have them in turns in the sums too, which are then stored as those of one gather.
 *
 * `packs`: where a piece has all pixels, the weight is read where it lies: a task packs for itself what its panels need
 * of `channels_at_once` channels, into the scratch memory after the band.  `on_stack`: where no workspace may be taken,
 * tasks do so too, a panel each, and the scratch memory is on the stack.
 *
 * `watch_nan` as in correlate.h.
 */

/* Where the pixels of a tile lie; those past the last are the last one again. */
static inline void NAMED(pixels_at)(index_t first, index_t pixels, index_t width, index_t rows, index_t line,
                                    index_t column, index_t *at) {
    index_t p = first / width, q = first % width;
    for (index_t m = 0; m < rows; m++) {
        at[m] = p * line + q * column;
        if (first + m + 1 < pixels && ++q == width) q = 0, p++;
    }
}

/* Store sums, [pixel][lane]: pixels as wide as a vector at a time are turned, into the result if they are a run there.
 * Those at the end of a line that is long enough are stored with some that were stored already.  Return whether there
 * is a NaN, if that is watched; in a lane past the last channel, weighted with zeros, it only makes for more work.
 */
static int NAMED(store_channels)(const channels_step *s, const TYPE *sums, index_t pixels, index_t width, index_t wide,
                                 TYPE *turned, TYPE *out) {
    const channels_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, lanes = s->turn->columns;
    index_t at[MAX_LANES];
    int nan_seen = 0;
    for (index_t first = 0, next; first < pixels; first = next) {
        const index_t left = pixels - first, line_end = width - first % width;
        const int moves = line_end < lanes && width >= lanes && z->out_line != width && z->out_column == z->interleaved;
        if (moves) first += line_end - lanes;
        const index_t count = left < lanes && !moves ? left : lanes;
        const TYPE *const from = sums + first * columns;
        next = first + count;
        if (z->watch_nan) nan_seen |= NAMED(has_nan)(from, count * columns);
        NAMED(pixels_at)(first, pixels, width, lanes, z->out_line, z->out_column / z->interleaved, at);
        if (z->out_channel == 1) {
            for (index_t m = 0; m < count; m++) {
                memcpy(out + at[m], from + m * columns, (size_t)wide * sizeof(TYPE));
            }
            continue;
        }
        const int is_run = count == lanes && at[lanes - 1] - at[0] == lanes - 1;
        const turn_loop loop = {columns, is_run ? z->out_channel : lanes, wide, 1};
        ((turn_function *)s->turn->function)(&loop, from, is_run ? out + at[0] : turned);
        for (index_t k = 0; !is_run && k < wide; k++) {
            for (index_t m = 0; m < count; m++) out[k * z->out_channel + at[m]] = turned[k * lanes + m];
        }
    }
    return nan_seen;
}

/* The part of a piece that a gather has: its lines and columns. */
static inline void NAMED(part_of)(const index_t *gather, const index_t *piece, index_t *lines, index_t *width) {
    const index_t down = gather[GATHER_LINES] - piece[0], across = gather[GATHER_WIDTH] - piece[1];
    *lines = down < 0 ? 0 : down < piece[2] ? down : piece[2];
    *width = across < 0 ? 0 : across < piece[3] ? across : piece[3];
}

/* Lay out terms of a panel of the weight as [term][lane], those past its `wide` rows zero. */
static void NAMED(pack_panel)(const channels_step *s, const TYPE *a, const index_t *terms, index_t count, index_t wide,
                              TYPE *packed) {
    const index_t columns = s->kernel->columns, row = s->sizes.a_row, lanes = s->turn->columns;
    const turn_loop loop = {row, columns, count, 0};
    index_t turned = 0;
    for (; s->sizes.a_in_line && wide - turned >= lanes; turned += lanes) {
        ((turn_function *)s->turn->function)(&loop, a + terms[0] + turned * row, packed + turned);
    }
    for (index_t l = 0; l < count; l++) {
        const TYPE *from = a + terms[l];
        TYPE *to = packed + l * columns;
        if (row == 1) memcpy(to + turned, from + turned, (size_t)(wide - turned) * sizeof(TYPE));
        else
            for (index_t j = turned; j < wide; j++) to[j] = from[j * row];
        for (index_t j = wide; j < columns; j++) to[j] = 0;
    }
}

/* Copy a vector of lanes. */
static inline void NAMED(copy_lanes)(TYPE *to, const TYPE *from, index_t lanes) {
    if (lanes * sizeof(TYPE) == 64) memcpy(to, from, 64);
    else memcpy(to, from, (size_t)lanes * sizeof(TYPE));
}

/* As pack_panel, of a weight whose rows follow each other, `a_row` taps each, to all gathers: `packed` is where the
 * panel of each begins.  As many rows as a vector has lanes are turned at a time.
 */
static void NAMED(deal_panel)(const channels_step *s, const TYPE *a, index_t channels, index_t wide,
                              TYPE *const *packed) {
    const index_t columns = s->kernel->columns, row = s->sizes.a_row, lanes = s->turn->columns;
    const turn_loop loop = {row, lanes, row, 0};
    _Alignas(64) TYPE square[MAX_DEALT_TAPS * MAX_LANES];
    for (index_t c = 0; c < channels; c++, a += s->sizes.a_channel) {
        /* Too far apart for the hardware to foresee. */
        for (index_t i = 0; i < wide * row; i += 64 / sizeof(TYPE)) __builtin_prefetch(a + s->sizes.a_channel + i);
        for (index_t first = 0; first < columns; first += lanes) {
            const TYPE *from = a + first * row;
            if (first + lanes <= wide) ((turn_function *)s->turn->function)(&loop, from, square);
            else
                for (index_t i = 0; i < lanes * row; i++) {
                    square[i] = first + i % lanes < wide ? from[i % lanes * row + i / lanes] : 0;
                }
            for (index_t i = 0; i < s->sizes.gathers; i++) {
                const index_t *const g = s->gathers + i * GATHER_SIZES, taps = g[GATHER_TAPS];
                for (index_t t = 0; t < taps; t++) {
                    NAMED(copy_lanes)(packed[i] + (c * taps + t) * columns + first,
                                      square + s->a_terms[g[GATHER_TERMS] + t] * lanes, lanes);
                }
            }
        }
    }
}

/* Lay out what the panels of a task need of some channels as [gather][panel][term][lane]. */
static void NAMED(pack_panels)(const channels_step *s, const TYPE *a, index_t channels, index_t first_row,
                               index_t panels, TYPE *packed) {
    const channels_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns;
    const int dealt = z->a_row > 1 && z->a_row <= MAX_DEALT_TAPS && z->a_row < z->a_channel && !z->a_in_line &&
                      z->gathers <= MAX_DEALT_TAPS && columns % s->turn->columns == 0;
    for (index_t j = 0; j < panels; j++) {
        const index_t row = first_row + j * columns, wide = z->rows - row < columns ? z->rows - row : columns;
        TYPE *to[MAX_DEALT_TAPS], *panel = packed;
        for (index_t i = 0; i < z->gathers; i++) {
            const index_t *const g = s->gathers + i * GATHER_SIZES, size = channels * g[GATHER_TAPS] * columns;
            if (dealt) to[i] = panel + j * size;
            else
                NAMED(pack_panel)(s, a + row * z->a_row, s->a_terms + g[GATHER_TERMS], channels * g[GATHER_TAPS], wide,
                                  panel + j * size);
            panel += panels * size;
        }
        if (dealt) NAMED(deal_panel)(s, a + row * z->a_row, channels, wide, to);
    }
}

static void NAMED(channels)(const void *step, char *const *buffers, index_t images, index_t task) {
    const channels_step *s = step;
    const channels_sizes *z = &s->sizes;
    const index_t columns = s->kernel->columns, tile_rows = s->kernel->rows;
    const index_t tile_size = tile_rows * columns * z->interleaved;
    panel_function *const multiply = (panel_function *)s->kernel->function;
    const index_t first_panel = task % z->panel_tasks * z->panels_per_task;
    const index_t most_panels = z->panels - first_panel;
    const index_t panels = most_panels < z->panels_per_task ? most_panels : z->panels_per_task;
    const index_t *piece = s->pieces + 4 * (task / z->panel_tasks % z->pieces);
    const index_t group = task / z->panel_tasks / z->pieces % z->groups;
    const index_t image = task / z->panel_tasks / z->pieces / z->groups;
    const TYPE *x = (const TYPE *)buffers[FIRST] + image * z->x_image + group * z->x_group;
    const TYPE *a = (const TYPE *)buffers[z->a_buffer];
    const TYPE *bias = z->bias_buffer < 0 ? NULL : (const TYPE *)buffers[z->bias_buffer] + group * z->rows;
    TYPE *out = (TYPE *)buffers[z->out_buffer] + z->out_offset + image * z->out_image + group * z->out_group;
    _Alignas(64) TYPE stack[MAX_BAND_BYTES / sizeof(TYPE)];
    TYPE *sums = z->on_stack ? stack : (TYPE *)buffers[SCRATCH], *packed = sums + z->weight_offset;
    TYPE *turned = sums + z->turned_offset, *b = sums + z->band_offset;
    const TYPE zeros[MAX_TILE_ROWS] = {0};
    index_t at[MAX_TILE_ROWS], lines, width;
    int nan_seen = 0;
    (void)images;
    for (index_t channel = 0; channel < z->channels || !channel; channel += z->channels_at_once) {
        const index_t rest = z->channels - channel;
        const index_t channels = rest < z->channels_at_once ? rest : z->channels_at_once;
        TYPE *set = sums, *own = packed;
        if (z->packs) {
            NAMED(pack_panels)(s, a + group * z->a_group + channel * z->a_channel, channels, first_panel * columns,
                               panels, packed);
        }
        ((band_function *)s->fill->function)(&s->band, x + channel * s->band.sizes.x_channel, channels, piece[0],
                                             piece[1], piece[2] + z->more_lines, piece[3] + z->more_columns, b);
        for (index_t i = 0; i < z->gathers; i++) {
            const index_t *const g = s->gathers + i * GATHER_SIZES;
            const index_t taps = g[GATHER_TAPS], panel = (z->packs ? channels : z->channels) * taps * columns;
            const panel_loop loop = {.repeats = 1,
                                     .length = channels * taps,
                                     .a_at = s->offsets + g[GATHER_TERMS],
                                     .a_row = at,
                                     .out_row = s->tile_row};
            const TYPE *weight = own;
            if (z->packs) own += panels * panel;
            else weight = a + g[GATHER_WEIGHT] + (group * z->panels + first_panel) * panel + channel * taps * columns;
            NAMED(part_of)(g, piece, &lines, &width);
            const index_t pixels = lines * width, tiles = (pixels + tile_rows - 1) / tile_rows;
            TYPE *to = set + i % z->interleaved * columns;
            for (index_t t = 0; t < tiles; t++, to += tile_size) {
                NAMED(pixels_at)(t * tile_rows, pixels, width, tile_rows, s->band.sizes.pitch, 1, at);
                for (index_t j = 0; j < panels; j++) {
                    multiply(&loop, b, weight + j * panel, channel ? NULL : zeros, to + j * tiles * tile_size);
                }
            }
            if ((i + 1) % z->interleaved == 0) set += panels * tiles * tile_size;
        }
    }
    for (index_t i = 0; i < z->gathers; i += z->interleaved) {
        const index_t *const g = s->gathers + i * GATHER_SIZES;
        NAMED(part_of)(g, piece, &lines, &width);
        const index_t tiles = (lines * width + tile_rows - 1) / tile_rows, pixels = lines * width * z->interleaved;
        TYPE *to = out + g[GATHER_OFFSET] + piece[0] * z->out_line + piece[1] * z->out_column;
        for (index_t j = 0; j < panels; j++, sums += tiles * tile_size) {
            const index_t k = (first_panel + j) * columns, wide = z->rows - k < columns ? z->rows - k : columns;
            for (index_t m = 0; bias && m < pixels; m++) {
                for (index_t lane = 0; lane < wide; lane++) sums[m * columns + lane] += bias[k + lane];
            }
            nan_seen |=
                NAMED(store_channels)(s, sums, pixels, width * z->interleaved, wide, turned, to + k * z->out_channel);
        }
    }
    if (nan_seen) __atomic_store_n((int *)buffers[NAN_SEEN], 1, __ATOMIC_RELAXED);
}
