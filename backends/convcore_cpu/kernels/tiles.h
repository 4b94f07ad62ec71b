/* Winograd's transform of the input: overlapping tiles of an image operand to points.
 *
 *     V[block, point, channel*pieces + piece, lane] = B^T d B,  d[a][b] = src[image, channel, line, column]
 *     line = (i*m + a)*stride + what the line piece begins with, column alike
 *
 * Tile (image, i, j) is lane `lane` of block `block`: tiles are numbered line by line and on from image to image, so
 * that a block is full however small the images are.  Past the last tile V is 0.
 *
 * A long kernel is a sum of pieces of r taps, and one with a stride a sum of one for each phase of lines and columns;
 * the pieces are terms of the sum like channels.
 *
 * What some tiles of an image need is copied to a band, in phases and with its padding (band.h).  Its lines are
 * transformed first, each once, to half[column piece, line phase, point, line % m][line / m, tile column]: there the
 * first lines of all tiles lie side by side, and so do the second, ..., whatever the tile's line; then the columns.
 *
 * A task is some blocks of tiles, which share lines of the image, by some channels.
 */
/* Tiles of one image: `count` from lane `lane` of the task on, in tile lines first_line .. first_line+lines-1, of which
 * the half transform has `width` tiles from first_column on; they begin with tile `skip` of those.
 */
typedef struct {
    index_t lane, count, image, first_line, lines, first_column, width, skip;
} NAMED(tile_run);

/* The tiles from number `tile` on, at most `most`, that are transformed at once. */
static NAMED(tile_run) NAMED(run_of_tiles)(const tiles_sizes *z, index_t tile, index_t lane, index_t most) {
    const index_t per_image = z->tile_lines * z->tile_columns, at = tile % per_image, column = at % z->tile_columns;
    const index_t first_line = at / z->tile_columns;
    /* Wide images line by line, so that what lines have in common stays small. */
    const index_t left = z->tile_columns >= z->blocks_at_once * z->lanes ? z->tile_columns - column : per_image - at;
    const index_t count = left < most ? left : most, lines = (column + count - 1) / z->tile_columns + 1;
    const NAMED(tile_run) in_line = {lane, count, tile / per_image, first_line, 1, column, count, 0};
    const NAMED(tile_run) whole = {lane, count, tile / per_image, first_line, lines, 0, z->tile_columns, column};
    return lines == 1 ? in_line : whole;
}

/* The lines of a band to points of its columns. */
static void NAMED(transform_lines)(const tiles_step *s, const NAMED(tile_run) * run, const TYPE *band, index_t pitch,
                                   TYPE *half) {
    const tiles_sizes *z = &s->sizes;
    const index_t lanes = s->pixels->columns, lines = run->lines * z->line_m + z->more_lines;
    transform_loop loop = {.vectors = (run->width + lanes - 1) / lanes,
                           .out_group = z->line_m * z->half_plane,
                           .in_line = z->line_m * pitch,
                           .out_line = run->width};
    for (index_t piece = 0; piece < z->column_pieces; piece++) {
        for (index_t phase = 0; phase < z->line_phases; phase++, half += z->column_n * z->line_m * z->half_plane) {
            const TYPE *line = band + s->column_pieces[piece] + phase * s->band.sizes.phase;
            for (index_t residue = 0; residue < z->line_m && residue < lines; residue++, line += pitch) {
                loop.lines = (lines - residue + z->line_m - 1) / z->line_m;
                ((transform_function *)s->pixels->function)(&loop, line, half + residue * z->half_plane);
            }
        }
    }
}

/* Those to points of lines as well: of one piece, for `count` tiles from lane `lane` of a block on. */
static void NAMED(transform_columns)(const tiles_step *s, index_t width, index_t piece, index_t lane, index_t count,
                                     const TYPE *half, TYPE *v) {
    const tiles_sizes *z = &s->sizes;
    const index_t lanes = s->points->columns, whole = (z->lanes - lane) / lanes;
    const index_t vectors = (count + lanes - 1) / lanes, full = vectors < whole ? vectors : whole;
    index_t in_offsets[MAX_POINTS];
    for (index_t a = 0; a < z->line_n; a++) {
        const index_t *line = s->piece_lines + 2 * (piece * z->line_n + a);
        in_offsets[a] = line[0] + line[1] * width;
    }
    transform_loop loop = {.in_offsets = in_offsets,
                           .out_offsets = s->out_offsets,
                           .vectors = full,
                           .groups = z->column_n,
                           .in_group = z->line_m * z->half_plane,
                           .out_group = z->dst_point};
    ((transform_function *)s->points->function)(&loop, half, v + lane);
    if (full == vectors) return;
    loop.vectors = 1, loop.count = count - full * lanes; /* the block ends within a vector */
    ((transform_function *)s->points->function)(&loop, half + full * lanes, v + lane + full * lanes);
}

/* Where a run finds its pixels in an image that it may read in place: nothing is padded, lines are dense, and what is
 * read past the last of them lies in the plane as well; otherwise -1.
 */
static index_t NAMED(in_place)(const tiles_step *s, const NAMED(tile_run) * run) {
    const tiles_sizes *z = &s->sizes;
    const axis lines = s->band.lines[0], columns = s->band.columns[0];
    const index_t lanes = s->pixels->columns, first_line = run->first_line * z->line_m,
                  column = run->first_column * z->column_m;
    const index_t end_line = first_line + run->lines * z->line_m + z->more_lines;
    const index_t end_column = column + run->width * z->column_m + z->more_columns;
    const index_t whole = (run->width + lanes - 1) / lanes * lanes * z->column_m + z->more_columns;
    if (s->band.sizes.line_phases * s->band.sizes.column_phases > 1 || columns.step != 1) return -1;
    if (first_line < lines.lo || end_line > lines.hi || column < columns.lo || end_column > columns.hi) return -1;
    const index_t at = lines.base + first_line * lines.step + columns.base + column;
    return at + (end_line - 1 - first_line) * lines.step + whole <= z->src_plane ? at : -1;
}

/* Ask for the pixels of a run ahead of time: pieces of lines are no stream that a processor foresees. */
static void NAMED(ask_for)(const tiles_step *s, const NAMED(tile_run) * run, const TYPE *src) {
    enum { STEP = 64 / sizeof(TYPE) };
    const tiles_sizes *z = &s->sizes;
    const axis lines = s->band.lines[0], columns = s->band.columns[0];
    const index_t first = run->first_line * z->line_m, end = first + run->lines * z->line_m + z->more_lines;
    const index_t column = columns.base + run->first_column * z->column_m * columns.step;
    if (columns.step > 2) return;
    for (index_t y = first < lines.lo ? lines.lo : first; y < end && y < lines.hi; y++) {
        const TYPE *line = src + lines.base + y * lines.step + column;
        for (index_t x = 0; x < run->width * z->column_m * columns.step; x += STEP) __builtin_prefetch(line + x);
    }
}

/* Points of one channel, all its pieces, of a run of tiles. */
static void NAMED(transform_run)(const tiles_step *s, const NAMED(tile_run) * run, index_t in_place, const TYPE *src,
                                 TYPE *band, TYPE *v) {
    const tiles_sizes *z = &s->sizes;
    TYPE *const half = band + z->half_offset;
    const index_t half_piece = z->line_phases * z->column_n * z->line_m * z->half_plane;
    if (in_place < 0) {
        ((band_function *)s->fill_band->function)(
            &s->band, src, 1, run->first_line * z->line_m, run->first_column * z->column_m,
            run->lines * z->line_m + z->more_lines, run->width * z->column_m + z->more_columns, band);
        NAMED(transform_lines)(s, run, band, s->band.sizes.pitch, half);
    } else {
        NAMED(transform_lines)(s, run, src + in_place, s->band.lines[0].step, half);
    }
    for (index_t done = 0; done < run->count;) {
        const index_t block = (run->lane + done) / z->lanes, lane = (run->lane + done) % z->lanes;
        const index_t left = run->count - done, count = left < z->lanes - lane ? left : z->lanes - lane;
        TYPE *to = v + block * z->dst_block;
        for (index_t piece = 0; piece < z->line_pieces; piece++) {
            for (index_t across = 0; across < z->column_pieces; across++, to += z->lanes) {
                NAMED(transform_columns)(s, run->width, piece, lane, count,
                                         half + across * half_piece + run->skip + done, to);
            }
        }
        done += count;
    }
}

/* Transform channels first .. last-1 of some blocks to where `v` has the first of them. */
static void NAMED(transform_tiles)(const tiles_step *s, char *const *buffers, index_t images, index_t first_block,
                                   index_t blocks, index_t first, index_t last, TYPE *v) {
    const tiles_sizes *z = &s->sizes;
    const index_t pieces = z->column_pieces * z->line_pieces, first_tile = first_block * z->lanes;
    const index_t left = z->tile_lines * z->tile_columns * images - first_tile;
    const index_t tiles = left < 0 ? 0 : left < blocks * z->lanes ? left : blocks * z->lanes;
    const TYPE *src = (const TYPE *)buffers[FIRST];
    TYPE *const band = (TYPE *)buffers[SCRATCH] + z->band_offset;
    v += first * pieces * z->lanes;
    for (index_t lane = 0; lane < tiles;) {
        const NAMED(tile_run) run = NAMED(run_of_tiles)(z, first_tile + lane, lane, tiles - lane);
        const TYPE *from = src + run.image * z->src_image + first * s->band.sizes.x_channel;
        const index_t in_place = NAMED(in_place)(s, &run);
        for (index_t channel = first; channel < last; channel++, from += s->band.sizes.x_channel) {
            if (channel + 1 < last) NAMED(ask_for)(s, &run, from + s->band.sizes.x_channel);
            NAMED(transform_run)(s, &run, in_place, from, band, v + (channel - first) * pieces * z->lanes);
        }
        lane += run.count;
    }
    for (index_t block = tiles / z->lanes; block < blocks; block++) {
        const index_t used = tiles > block * z->lanes ? tiles - block * z->lanes : 0;
        for (index_t point = 0; point < z->line_n * z->column_n; point++) {
            TYPE *of = v + block * z->dst_block + point * z->dst_point;
            for (index_t term = 0; term < (last - first) * pieces; term++, of += z->lanes) {
                for (index_t lane = used; lane < z->lanes; lane++) of[lane] = 0;
            }
        }
    }
}

static void NAMED(tiles)(const void *step, char *const *buffers, index_t images, index_t task) {
    const tiles_step *s = step;
    const tiles_sizes *z = &s->sizes;
    const index_t block = task / z->channel_tasks * z->blocks_at_once, left = z->blocks - block;
    const index_t first = task % z->channel_tasks * z->channels_per_task;
    const index_t last = first + z->channels_per_task < z->channels ? first + z->channels_per_task : z->channels;
    NAMED(transform_tiles)(s, buffers, images, z->first_block + block,
                           left < z->blocks_at_once ? left : z->blocks_at_once, first, last,
                           (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->dst_block);
}
