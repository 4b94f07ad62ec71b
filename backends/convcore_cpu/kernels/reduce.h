/* Add up the parts of grad_weight in order, and put the sums where the weight has them.
 *
 *     out[group, lane / interleave, m, lane % interleave] = sum_part src[part, group, m, lane]
 *
 * A task is LANES lanes of one group.  They are turned a square at a time, so that whole cache lines are read and
 * written: a weight's rows are often a multiple of 4 KiB apart, where few lines fit in a first-level cache at once.
 */
static void NAMED(reduce)(const void *step, char *const *buffers, index_t images, index_t task) {
    enum { LANES = 16 };
    const reduce_sizes *z = &((const reduce_step *)step)->sizes;
    const index_t group = task / z->lane_blocks, first = task % z->lane_blocks * LANES;
    const index_t last = first + LANES < z->lanes ? first + LANES : z->lanes;
    const TYPE *src = (const TYPE *)buffers[WORKSPACE] + z->src_offset + group * z->src_group;
    TYPE *out = (TYPE *)buffers[OUT] + group * z->lanes * z->rows;
    (void)images;
    for (index_t row = 0; row < z->rows; row += LANES) {
        const index_t rows = row + LANES < z->rows ? LANES : z->rows - row;
        TYPE square[LANES][LANES] = {{0}};
        for (index_t part = 0; part < z->parts; part++) {
            const TYPE *from = src + part * z->src_part + row * z->src_row + first * z->src_lane;
            for (index_t m = 0; m < rows; m++) {
                for (index_t j = 0; j < last - first; j++) square[m][j] += from[m * z->src_row + j * z->src_lane];
            }
        }
        for (index_t lane = first; lane < last; lane++) {
            TYPE *to = out + (lane / z->interleave * z->rows + row) * z->interleave + lane % z->interleave;
            for (index_t m = 0; m < rows; m++) to[m * z->interleave] = square[m][lane - first];
        }
    }
}
