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
/* Row steps are multiplied by a number the compiler may know. */
#define STEP_OF(row) (ROW_STEP ? (row) : rows[row])

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
                 long reduction_step, int top, int left) {
    RESULT sum = 0;
    for (int c = 0; c < depth; ++c)
        for (int tap = 0; tap < TAPS; ++tap, weight += reduction_step) {
            const int h = source(top + tap / TAPS_W * DILATION_H, image.x);
            const int w = source(left + tap % TAPS_W * DILATION_W, image.y);
            if (h >= 0 && w >= 0) sum += in[c * PLANE(image) + (h * image.y + w) * COLUMN_STEP(channels)] * *weight;
        }
    return sum;
}
