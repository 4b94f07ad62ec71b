/* Winograd's transform of grad_out for grad_weight: tiles of m x m pixels to points, with lanes of channels.
 *
 *     G[point, tile, channel] = A g A^T,  g[a][b] = src[image, channel, i*m + a, j*m + b], or 0 outside the image
 *
 * Tile (image, i, j) is tile `tile` of its block, numbered as in tiles.h.  Tiles past the last one are zeros, and so
 * are the channels past the last one.
 *
 * A task is one block of tiles and one vector of channels.
 */
static inline __attribute__((always_inline)) void NAMED(tile_of_channels)(const int m, const TYPE *src, index_t line,
                                                                          index_t column, index_t channel,
                                                                          index_t channels, TYPE *to, index_t lanes) {
    for (index_t lane = 0; lane < channels; lane++, src += channel) {
    UNROLL for (int a = 0; a < m; a++) {
            UNROLL for (int b = 0; b < m; b++) to[(a * m + b) * lanes + lane] = src[a * line + b * column];
        }
    }
}

static void NAMED(grads)(const void *step, char *const *buffers, index_t images, index_t task) {
    const grads_step *s = step;
    const grads_sizes *z = &s->sizes;
    const index_t m = s->kernel->rows, lanes = s->kernel->columns, per_image = z->tile_lines * z->tile_columns;
    const index_t block = task / z->channel_tasks, first_channel = task % z->channel_tasks * lanes;
    const index_t left_over = z->channels - first_channel, channels = left_over < lanes ? left_over : lanes;
    const TYPE *src = (const TYPE *)buffers[SECOND] + first_channel * z->src_channel;
    TYPE *g = (TYPE *)buffers[WORKSPACE] + z->dst_offset + block * z->tiles * z->dst_tile + first_channel;
    const transform_loop loop = {s->in_offsets, s->out_offsets, 1, NULL};
    _Alignas(64) TYPE elements[4 * 4 * MAX_TILE_COLUMNS] = {0};
    for (index_t t = 0; t < z->tiles; t++) {
        const index_t tile = (z->first_block + block) * z->tiles + t, image = tile / per_image;
        const index_t top = tile % per_image / z->tile_columns * m, left = tile % z->tile_columns * m;
        const TYPE *at = src + image * z->src_image + top * z->src_line + left * z->src_column;
        if (image < images && channels > 0 && top + m <= z->height && left + m <= z->width) {
            if (m == 2) NAMED(tile_of_channels)(2, at, z->src_line, z->src_column, z->src_channel, channels, elements, lanes);
            else NAMED(tile_of_channels)(4, at, z->src_line, z->src_column, z->src_channel, channels, elements, lanes);
        } else {
            memset(elements, 0, sizeof elements);
            for (index_t a = 0; image < images && a < m && top + a < z->height; a++) {
                for (index_t b = 0; b < m && left + b < z->width; b++) {
                    for (index_t lane = 0; lane < channels; lane++) {
                        elements[(a * m + b) * lanes + lane] =
                            at[lane * z->src_channel + a * z->src_line + b * z->src_column];
                    }
                }
            }
        }
        ((transform_function *)s->kernel->function)(&loop, elements, g + t * z->dst_tile);
    }
}
