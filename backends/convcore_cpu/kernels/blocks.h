/* A Winograd correlation block by block of tiles, from pixels to results: tiles.h and multiply.h in one.
 *
 * The points of a block, of all channels, are in the thread's scratch memory and so in its second-level cache. As a
 * stage of their own the points of all tiles, 2.25 times as many as there are pixels for F(4, 3), go to the last-level
 * cache and come back.
 *
 * A task is one block of tiles.
 */
static void NAMED(blocks)(const void *step, char *const *buffers, index_t images, index_t task) {
    const blocks_step *s = step;
    const multiply_sizes *z = &s->multiply.sizes;
    TYPE *v = (TYPE *)buffers[SCRATCH];
    NAMED(transform_tiles)(&s->tiles, buffers, images, task, 1, 0, s->tiles.sizes.channels, v);
    NAMED(multiply_block)(&s->multiply, buffers, images, task, z->first_row, z->last_row, v);
}
