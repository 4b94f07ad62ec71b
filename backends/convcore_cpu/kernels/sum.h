/* Sum a channel over all images and pixels: the gradient of a bias.
 *
 *     out[k] = sum_{n, i < pixels} src[n*src_image + k*src_channel + i*src_pixel]
 *
 * Pairwise down to blocks of 512 elements, each summed in 16 interleaved chains, so the rounding error grows with the
 * logarithm of the length: Higham, "The Accuracy of Floating Point Summation", section 3.  The order is fixed.
 *
 * A task sums one channel (or one half of a complex one).  Instantiated for each SOURCE and TYPE.
 */
static TYPE SOURCED(sum_pixels)(const SOURCE *src, index_t step, index_t count) {
    enum { CHAINS = 16, BLOCK = 512 };
    if (count > BLOCK) {
        const index_t half = count / 2;
        return SOURCED(sum_pixels)(src, step, half) + SOURCED(sum_pixels)(src + half * step, step, count - half);
    }
    TYPE chains[CHAINS] = {0}, total = 0;
    index_t i = 0;
    for (; i + CHAINS <= count; i += CHAINS) {
        for (int j = 0; j < CHAINS; j++) chains[j] += (TYPE)src[(i + j) * step];
    }
    for (; i < count; i++) total += (TYPE)src[i * step];
    for (int j = 0; j < CHAINS; j++) total += chains[j];
    return total;
}

static TYPE SOURCED(sum_images)(const SOURCE *src, const sum_sizes *z, index_t count) {
    if (count == 0) return 0;
    if (count == 1) return SOURCED(sum_pixels)(src, z->src_pixel, z->pixels);
    return SOURCED(sum_images)(src, z, count / 2) +
           SOURCED(sum_images)(src + count / 2 * z->src_image, z, count - count / 2);
}

static void SOURCED(sum)(const void *step, char *const *buffers, index_t images, index_t task) {
    const sum_sizes *z = &((const sum_step *)step)->sizes;
    const SOURCE *src = (const SOURCE *)buffers[FIRST] + task / z->interleave * z->src_channel + task % z->interleave;
    ((TYPE *)buffers[OUT])[task] = SOURCED(sum_images)(src, z, images);
}
