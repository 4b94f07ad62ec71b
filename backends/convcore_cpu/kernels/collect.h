/* Copy the pixels of a tile into a panel, term by term.
 *
 *     panel[l*columns + run.lane + i] = planes[run.at + offsets[l] + i],   0 <= i < run.count, for every run
 *
 * A run is as much of a line as a tile has.  A panel is read line after line, every vector of it once for some rows;
 * pixels of the planes, a page apart from term to term, are only read here.
 *
 * Where the planes may be read past the end of a run, whole vectors are copied, and what is too much the next run or
 * the next term overwrites.  The runs may be those of several panels, whose lanes are as far apart as the panels are: a
 * line of memory is then read further at a time.
 *
 * The caller guarantees that the runs are in the order of their lanes, and that there is a vector of room after each
 * panel.
 */
static inline __attribute__((always_inline)) void NAMED(copy_run)(const TYPE *from, index_t count, int may_overrun,
                                                                  TYPE *to) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    index_t i = 0;
    for (; i + LANES <= count; i += LANES) *(NAMED(vector) *)(to + i) = *(const NAMED(vector) *)(from + i);
    if (i == count) return;
    if (may_overrun) *(NAMED(vector) *)(to + i) = *(const NAMED(vector) *)(from + i);
    else
        for (; i < count; i++) to[i] = from[i];
}

static inline __attribute__((always_inline)) void
NAMED(collect)(const int rows, const int vectors, const collect_loop *loop, const TYPE *planes, TYPE *panel) {
    (void)rows, (void)vectors; /* any number */
    for (index_t l = 0; l < loop->length; l++, panel += loop->columns) {
        const TYPE *from = planes + loop->offsets[l];
        for (const pixel_run *run = loop->runs; run < loop->runs + loop->count; run++) {
            NAMED(copy_run)(from + run->at, run->count, loop->may_overrun, panel + run->lane);
        }
    }
}
