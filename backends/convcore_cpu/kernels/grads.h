/* Winograd's transform of grad_out for grad_weight: tiles of m x m pixels to points, with lanes of channels.
 *
 *     G[point, channel / panel, tile, channel % panel] = A g A^T,  g[a][b] = src[image, channel, i*m + a, j*m + b], or
 * 0 outside the image
 *
 * Tile (image, i, j) is tile `tile` of its block, numbered as in tiles.h.  Tiles past the last one are zeros, and so
 * are the channels past the last one.
 *
 * Some tiles of a line are gathered on the stack at a time, channel by channel, so that lines are read one after the
 * other.
 *
 * A task is one block of tiles and one vector of channels.
 */
static inline __attribute__((always_inline)) void NAMED(channel_of_tiles)(const int m, const grads_sizes *z,
                                                                          const TYPE *src, index_t height,
                                                                          index_t width, index_t lanes, TYPE *to) {
    const index_t whole = width / m;
    for (index_t a = 0; a < height && a < m; a++, src += z->src_line, to += m * lanes) {
        for (index_t t = 0; t < whole; t++) {
    UNROLL for (int b = 0; b < m; b++) to[(t * m * m + b) * lanes] = src[(t * m + b) * z->src_column];
        }
        for (index_t x = whole * m; x < width; x++) to[(x / m * m * m + x % m) * lanes] = src[x * z->src_column];
    }
}

static void NAMED(grads)(const void *step, char *const *buffers, index_t images, index_t task) {
    enum { AT_ONCE = 16 };
    const grads_step *s = step;
    const grads_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, lanes = s->kernel->columns, per_image = z->tile_lines * z->tile_columns;
    const index_t block = task / z->channel_tasks, first_channel = task % z->channel_tasks * lanes;
    const index_t left_over = z->channels - first_channel, channels = left_over < lanes ? left_over : lanes;
    const index_t first_tile = (z->first_block + block) * z->tiles, end = per_image * images;
    const TYPE *src = (const TYPE *)buffers[SECOND] + first_channel * z->src_channel;
    TYPE *g = (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->tiles * z->dst_tile +
              first_channel / z->panel * z->dst_panel + first_channel % z->panel;
    const transform_loop loop = {s->in_offsets, s->out_offsets, 1, NULL};
    _Alignas(64) TYPE elements[AT_ONCE * 4 * 4 * MAX_LANES];
    for (index_t t = 0; t < z->tiles;) {
        const index_t tile = first_tile + t, i = tile % per_image / z->tile_columns, j = tile % z->tile_columns;
        const index_t in_line = z->tile_columns - j < AT_ONCE ? z->tile_columns - j : AT_ONCE;
        const index_t run = in_line < z->tiles - t ? in_line : z->tiles - t;
        const index_t height = tile < end ? z->height - i * m : 0;
        const index_t width = z->width - j * m < run * m ? z->width - j * m : run * m;
        const TYPE *at = src + tile / per_image * z->src_image + i * m * z->src_line + j * m * z->src_column;
        if (height < m || width < run * m || channels < lanes) memset(elements, 0, sizeof elements);
        for (index_t lane = 0; lane < channels; lane++, at += z->src_channel) {
            if (m == 2) NAMED(channel_of_tiles)(2, z, at, height, width, lanes, elements + lane);
            else NAMED(channel_of_tiles)(4, z, at, height, width, lanes, elements + lane);
        }
        for (index_t done = 0; done < run; done++, t++) {
            ((transform_function *)s->kernel->function)(&loop, elements + done * m * m * lanes, g + t * z->dst_tile);
        }
    }
}
