/* Copy the pixels of a tile into a panel, term by term.
 *
 *     panel[l*columns + run.lane + i] = planes[run.at + offsets[l] + i*step],   0 <= i < run.count, for every run
 *
 * A run is as much of a line as a tile has.  A panel is read line after line, every vector of it once for some rows;
 * pixels of the planes, a page apart from term to term, are only read here.
 *
 * Where the planes may be read past the end of a run, or the panel written, whole vectors are, and what is too much the
 * next run or the next term overwrites.  The runs may be those of several panels, whose lanes are as far apart as the
 * panels are: a line of memory is then read further at a time.
 *
 * Planes are packed by it too (pack.h): terms are lines then, evenly spaced, and there is one run.
 *
 * A step of two is taken by shuffles, without reading what lies past the last pixel.
 *
 * The caller guarantees that the runs are in the order of their lanes, and, where they may be overrun or have room,
 * that there is a vector of it after each panel; then the step is one.
 */
static inline __attribute__((always_inline)) void NAMED(copy_run)(const TYPE *from, index_t count, int may_overrun,
                                                                  int has_room, TYPE *to) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    index_t i = 0;
    for (; i + LANES <= count; i += LANES) *(NAMED(vector) *)(to + i) = *(const NAMED(vector) *)(from + i);
    if (i == count) return;
    if (may_overrun) *(NAMED(vector) *)(to + i) = *(const NAMED(vector) *)(from + i);
    else if (has_room) *(NAMED(vector) *)(to + i) = NAMED(load_lanes)(from + i, count - i);
    else NAMED(store_lanes)(to + i, NAMED(load_lanes)(from + i, count - i), count - i);
}

static inline __attribute__((always_inline)) void NAMED(copy_every_second)(const TYPE *from, index_t count, TYPE *to) {
    enum { LANES = VECTOR_BYTES / sizeof(TYPE) };
    index_t i = 0;
    for (; i + LANES <= count; i += LANES, from += 2 * LANES) {
        const NAMED(vector) low = *(const NAMED(vector) *)from, high = *(const NAMED(vector) *)(from + LANES - 1);
        *(NAMED(vector) *)(to + i) = NAMED(every_second)(low, high);
    }
    const index_t left = count - i, reach = 2 * left - 1;
    if (!left) return;
    const NAMED(vector) low = NAMED(load_lanes)(from, reach);
    const NAMED(vector) high = reach < LANES ? low : NAMED(load_lanes)(from + LANES - 1, reach - LANES + 1);
    NAMED(store_lanes)(to + i, NAMED(every_second)(low, high), left);
}

static inline __attribute__((always_inline)) void
NAMED(collect)(const int rows, const int vectors, const collect_loop *loop, const TYPE *planes, TYPE *panel) {
    (void)rows, (void)vectors; /* any number */
    for (index_t l = 0; l < loop->length; l++, panel += loop->columns) {
        const TYPE *from = planes + (loop->offsets ? loop->offsets[l] : l * loop->term);
        for (const pixel_run *run = loop->runs; run < loop->runs + loop->count; run++) {
            const TYPE *const first = from + run->at;
            TYPE *const to = panel + run->lane;
            if (loop->step == 1) NAMED(copy_run)(first, run->count, loop->may_overrun, loop->has_room, to);
            else if (loop->step == 2) NAMED(copy_every_second)(first, run->count, to);
            else
                for (index_t i = 0; i < run->count; i++) to[i] = first[i * loop->step];
        }
    }
}
