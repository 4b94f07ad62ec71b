/* Tiles of images, numbered line by line and on from image to image, as vectors of lanes see them. */
#ifndef CONVCORE_RUNS_H
#define CONVCORE_RUNS_H

#include "steps.h"

/* As much of a line of tiles as a vector of them has: `count` tiles from lane `lane` on, whose first pixel is (y, x).
 */
typedef struct {
    index_t lane, count, image, y, x;
} tile_run;

/* List the runs of `tiles` tiles of m x m pixels from tile `first` on; return where the list ends. */
static inline tile_run *runs_of_tiles(index_t tile_lines, index_t tile_columns, index_t m, index_t first, index_t tiles,
                                      tile_run *run) {
    const index_t per_image = tile_lines * tile_columns;
    for (index_t lane = 0; lane < tiles; lane += run++->count) {
        const index_t tile = first + lane, i = tile % per_image / tile_columns, j = tile % tile_columns;
        const index_t count = tile_columns - j < tiles - lane ? tile_columns - j : tiles - lane;
        *run = (tile_run){lane, count, tile / per_image, i * m, j * m};
    }
    return run;
}

#endif
