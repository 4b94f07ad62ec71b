/*
 * Purpose
 *   What panel.cl and strip.cl share: a tile of ROWS rows by VECTORS * LANES results in registers, and how it is
 * stored. This file is put in front of them; their tunables are explained in panel.cl.
 *
 * Formula
 *   put        line[where[lane]] = sums[lane] + (what is there, or a shift)
 *   looked_up  one result of a dense correlation, without the products that do not exist
 */

#define PANEL (VECTORS * LANES)
#define TAPS (TAPS_H * TAPS_W)
/* The rows that a tile multiplies by.  There are few registers for addresses, and one more than these in use halves the
   speed; so where no row is missing each third one has a pointer, from which x86 reaches the next two. */
#define THIRDS ((ROWS + 2) / 3)
typedef struct {
    global const RESULT *third[THIRDS];
    long each[ROWS];
    int step;
} row_set;

/* Element `ahead` of a row, counted from the term at hand, where `a` is. */
#if ROW_STEP
#define OF_ROW(a, rows, row, ahead) (a + (row) * ROW_STEP + (ahead))
#elif SHIFTED
#define OF_ROW(a, rows, row, ahead) (rows.third[(row) / 3] + (row) % 3 * (long)rows.step + (ahead))
#else
#define OF_ROW(a, rows, row, ahead) (a + rows.each[row] + (ahead))
#endif

row_set rows_at(global const RESULT *a, int row_step, int last_row) {
    row_set rows;
    rows.step = row_step;
#pragma unroll
    for (int i = 0; i < THIRDS; ++i) rows.third[i] = a + 3 * i * (long)row_step;
#pragma unroll
    for (int row = 0; row < ROWS; ++row) rows.each[row] = (long)MIN(row, last_row) * row_step;
    return rows;
}

/* Go on to the next term. */
#define ADVANCE(a, rows, by)                                                                                           \
    do {                                                                                                               \
        a += (by);                                                                                                     \
        _Pragma("unroll") for (int i = 0; i < THIRDS; ++i) rows.third[i] += (by);                                      \
    } while (0)

/* Have something brought into the cache: which rows come next no processor foresees. */
#if defined(__x86_64__)
#define PREFETCH(from) __builtin_prefetch((private const void *)(size_t)(from))
#else
#define PREFETCH(from)
#endif

/* How many rows a tile at row k goes back, so that all of its rows are there; those are not stored again. */
#define BACK(k, rows_there) (SHIFTED ? MAX((k) + ROWS - (rows_there), 0) : 0)

typedef struct {
    vector at[ROWS][VECTORS];
} tile;

/* Put one row of a tile where[lane] elements behind `line`, nowhere if that is -1: as it is, or added to what is there.
   Whether any is NaN. */
bool put(private const vector *sums, global RESULT *line, private const int *where, bool add, RESULT shift) {
    bool nan = false;
#pragma unroll
    for (int v = 0; v < VECTORS; ++v) {
        const int first = where[v * LANES];
        if (first >= 0 && where[v * LANES + LANES - 1] == first + LANES - 1) {
            global loose *to = (global loose *)(line + first);
            const vector sum = sums[v] + (add ? *to : (vector)shift);
            *to = sum;
            nan = nan || any_of(sum != sum);
            continue;
        }
        union {
            vector all;
            RESULT lane[LANES];
        } each = {sums[v]};
        for (int lane = 0; lane < LANES; ++lane) {
            const int to = where[v * LANES + lane];
            if (to < 0) continue;
            const RESULT sum = each.lane[lane] + (add ? line[to] : shift);
            nan = nan || sum != sum;
            line[to] = sum;
        }
    }
    return nan;
}

/* One result, without the products that do not exist. */
RESULT looked_up(global const RESULT *in, global const RESULT *weight, int channels, int2 image, int depth,
                 long depth_step, int2 tap_step, int top, int left) {
    RESULT sum = 0;
    for (int c = 0; c < depth; ++c, weight += depth_step)
        for (int tap = 0; tap < TAPS; ++tap) {
            const int r = tap / TAPS_W, s = tap % TAPS_W;
            const int h = source(top + r * DILATION_H, image.x), w = source(left + s * DILATION_W, image.y);
            if (h >= 0 && w >= 0)
                sum += in[c * PLANE(image) + (h * image.y + w) * COLUMN_STEP(channels)] *
                       weight[r * tap_step.x + s * tap_step.y];
        }
    return sum;
}
