/* Winograd's transform of grad_out for grad_weight: tiles of m x m pixels to points, with lanes of channels.
 *
 *     G[point, channel / panel, tile, channel % panel] = A g A^T,  g[a][b] = src[image, channel, i*m + a, j*m + b], or
 * 0 outside the image
 *
 * Tile (image, i, j) is tile `tile` of its block, numbered as in tiles.h.  Tiles past the last one are zeros, and so
 * are the channels past the last one.
 *
 * The channels of some tiles of a line are brought together on the stack, by turning lines into columns.
 *
 * A task is one block of tiles and one vector of channels.
 */

/* Pixels of a line for which a vector of channels is brought together at a time. */
enum { NAMED(GATHERED) = 64 };

/* Bring some channels of a line together, pixel by pixel. */
static void NAMED(gather_channels)(const grads_step *s, const TYPE *src, index_t channels, index_t width,
                                   index_t readable, TYPE *to) {
    const grads_sizes *z = &s->sizes;
    const index_t lanes = s->kernel->columns;
    if (s->turn && channels == lanes && z->src_column == 1) {
        const turn_loop loop = {z->src_channel, lanes, width, readable >= width + lanes};
        ((turn_function *)s->turn->function)(&loop, src, to);
        return;
    }
    for (index_t lane = 0; lane < channels; lane++, src += z->src_channel) {
        for (index_t x = 0; x < width; x++) to[x * lanes + lane] = src[x * z->src_column];
    }
}

static void NAMED(grads)(const void *step, char *const *buffers, index_t images, index_t task) {
    const grads_step *s = step;
    const grads_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, lanes = s->kernel->columns, per_image = z->tile_lines * z->tile_columns;
    const index_t block = task / z->channel_tasks, first_channel = task % z->channel_tasks * lanes;
    const index_t left_over = z->channels - first_channel, channels = left_over < lanes ? left_over : lanes;
    const index_t first_tile = (z->first_block + block) * z->tiles, end = per_image * images;
    const TYPE *src = (const TYPE *)buffers[SECOND] + first_channel * z->src_channel;
    TYPE *g = (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->tiles * z->dst_tile +
              first_channel / z->panel * z->dst_panel + first_channel % z->panel;
    index_t in_offsets[4 * 4];
    const transform_loop loop = {.in_offsets = in_offsets, .out_offsets = s->out_offsets, .vectors = 1};
    _Alignas(64) TYPE elements[4 * NAMED(GATHERED) * MAX_LANES];
    for (index_t a = 0; a < m * m; a++) in_offsets[a] = (a / m * NAMED(GATHERED) + a % m) * lanes;
    for (index_t t = 0; t < z->tiles;) {
        const index_t tile = first_tile + t, i = tile % per_image / z->tile_columns, j = tile % z->tile_columns;
        const index_t rest = z->tile_columns - j < z->tiles - t ? z->tile_columns - j : z->tiles - t;
        const index_t run = rest < NAMED(GATHERED) / m ? rest : NAMED(GATHERED) / m;
        const index_t height = tile < end ? z->height - i * m : 0;
        const index_t width = z->width - j * m < run * m ? z->width - j * m : run * m;
        const index_t at = i * m * z->src_line + j * m * z->src_column;
        if (height < m || width < run * m || channels < lanes) memset(elements, 0, sizeof elements);
        for (index_t a = 0; a < height && a < m; a++) {
            const index_t line = at + a * z->src_line;
            NAMED(gather_channels)(s, src + tile / per_image * z->src_image + line, channels, width,
                                   (left_over - lanes + 1) * z->src_channel - line,
                                   elements + a * NAMED(GATHERED) * lanes);
        }
        for (index_t done = 0; done < run; done++, t++) {
            ((transform_function *)s->kernel->function)(&loop, elements + done * m * lanes, g + t * z->dst_tile);
        }
    }
}
