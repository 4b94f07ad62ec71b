/* Multiplications and additions of vectors, on registers alone: what tells a processor that has units as wide as its
 * vectors from one that takes two turns for each.
 *
 * Twelve sums that do not wait for each other hide the latency of two units.  The factor is below one, and they
 * converge to 1, so that no number leaves the normal range.
 */
enum { SUMS = 12 };

static float JOIN(multiply, ISA)(index_t rounds, float factor) {
    f32_vector sums[SUMS], by, plus;
    for (index_t lane = 0; lane < (index_t)(VECTOR_BYTES / sizeof(float)); lane++)
        by[lane] = factor, plus[lane] = 1 - factor;
    for (int i = 0; i < SUMS; i++) sums[i] = by * (float)i;
    while (rounds--)
        for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * by + plus;
    for (int i = 1; i < SUMS; i++) sums[0] += sums[i];
    return sums[0][0];
}
