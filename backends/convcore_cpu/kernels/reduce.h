/* Add up the parts of grad_weight in order, and put the sums where the weight has them.
 *
 *     out[group, lane / interleave, m, lane % interleave] = sum_part src[part, group, m, lane]
 *
 * A task is LANES lanes of one group: a cache line is read once, and LANES lines of the weight are written at a time.
 */
static void NAMED(reduce)(const void *step, char *const *buffers, index_t images, index_t task) {
    enum { LANES = 16 };
    const reduce_sizes *z = &((const reduce_step *)step)->sizes;
    const index_t group = task / z->lane_blocks, first = task % z->lane_blocks * LANES;
    const index_t last = first + LANES < z->lanes ? first + LANES : z->lanes;
    const TYPE *src = (const TYPE *)buffers[WORKSPACE] + z->src_offset + group * z->src_group;
    TYPE *out = (TYPE *)buffers[OUT] + group * z->lanes * z->rows;
    (void)images;
    for (index_t m = 0; m < z->rows; m++) {
        for (index_t lane = first; lane < last; lane++) {
            TYPE sum = 0;
            for (index_t part = 0; part < z->parts; part++) {
                sum += src[part * z->src_part + m * z->src_row + lane * z->src_lane];
            }
            out[(lane / z->interleave * z->rows + m) * z->interleave + lane % z->interleave] = sum;
        }
    }
}
