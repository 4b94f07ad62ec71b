/* What a micro-kernel is: the register-tile function at the bottom of an algorithm, one row of a table.
 *
 * A row says everything about its function that a chooser, a test or a timer needs.  Every micro-kernel of an
 * algorithm has the same signature, whatever its element type, so the code above it is written once.
 */
#ifndef CONVCORE_MICRO_H
#define CONVCORE_MICRO_H

#include <stddef.h>
#include <stdint.h>

typedef ptrdiff_t index_t;

/* No tile of the table is larger. */
enum { MAX_TILE_ROWS = 16, MAX_TILE_VECTORS = 8, MAX_TILE = 512, MAX_TILE_COLUMNS = 128 };

/* No Winograd transform has more points along an axis, or results; no kernel has more taps. */
enum { MAX_POINTS = 6, MAX_RESULTS = 5, MAX_TAPS = 128 };

/* No vector has more lanes. */
enum { MAX_LANES = 16 };

/* Where the lanes of a vector of results go: lanes 0 .. kept-1 to at + lane, lanes from .. to-1 to next + lane. */
typedef struct {
    index_t at, kept, next, from, to;
} lane_runs;

/* The loop of an outer-product micro-kernel; outer.h has its formula. */
typedef struct {
    const index_t *offsets; /* length pairs (into A, into B), in elements */
    index_t length;
    index_t repeats, a_step, b_step; /* the pairs are gone through `repeats` times, moving A and B on each time */
    const index_t *a_row, *out_row;  /* for every row of the tile, in elements */
    const lane_runs *runs;           /* NULL, or where each vector of a row goes */
} outer_loop;

/* The loop of a panel micro-kernel; panel.h has its formula. */
typedef struct {
    index_t repeats, length;            /* terms: `length` evenly spaced ones, `repeats` times */
    index_t a_repeat, b_repeat, a_step; /* in elements */
    const index_t *a_at;                /* NULL, or where every term of A lies, in elements; repeats is 1 then */
    const index_t *a_row, *out_row;     /* for every row of the tile, in elements */
} panel_loop;

/* Neighbouring pixels of a tile, `count` of them from lane `lane` on, and where the first lies, in elements. */
typedef struct {
    index_t lane, count, at;
} pixel_run;

/* The loop of a collecting micro-kernel; collect.h has its formula. */
typedef struct {
    const pixel_run *runs;
    index_t count;
    const index_t *offsets; /* of every term, in elements; or NULL, where terms are `term` apart */
    index_t length, columns;
    int may_overrun, has_room; /* whether a vector may be read and written past the end of a run, or only written */
    index_t step, term;        /* step: from pixel to pixel of a run, in elements */
} collect_loop;

/* The loop of an inner-product micro-kernel; inner.h has its formula. */
typedef struct {
    const index_t *a_row; /* for every row of the tile, in elements */
    index_t length;
} inner_loop;

/* The loop of an interleaving micro-kernel; interleave.h has its formula. */
typedef struct {
    const index_t *in_row, *out_row; /* for every row, in elements */
    index_t rows, other, count;      /* other: from a line to the one it takes turns with; count: of the result */
} interleave_loop;

/* The loop of a turning micro-kernel; turn.h has its formula. */
typedef struct {
    index_t in_line, out_line, count; /* in elements */
    int may_overrun;                  /* whether a vector may be read past the end of a line */
} turn_loop;

/* The loop of a Winograd transform; winograd.h has its formula. */
typedef struct {
    const index_t *in_offsets, *out_offsets; /* of every element of a block, in elements */
    index_t vectors;
    void *seen; /* NULL, or a vector of numbers: those that are not finite are told by NaN in it */
    index_t groups, in_group, out_group;
    index_t lines, in_line, out_line, count; /* of pixels; how many in a line, or, unless 0, of a vector are stored */
} transform_loop;

typedef void outer_function(const outer_loop *loop, const void *a, const void *b, const void *init, void *out);
typedef void panel_function(const panel_loop *loop, const void *a, const void *b, const void *init, void *out);
typedef void collect_function(const collect_loop *loop, const void *planes, void *panel);
typedef void inner_function(const inner_loop *loop, const void *a, const void *terms, void *out);
typedef void interleave_function(const interleave_loop *loop, const void *in, void *out);
typedef void turn_function(const turn_loop *loop, const void *in, void *out);
typedef void transform_function(const transform_loop *loop, const void *in, void *out);

typedef struct {
    const char *name;      /* dtype_algorithm_tile__isa */
    const char *dtype;     /* f32, f64, i64 */
    const char *algorithm; /* outer, panel, collect, inner, interleave, turn, dot, sliding, winograd_... */
    const char *isa;
    int rows, columns; /* of the tile, in elements */
    int vector_bytes;
    void (*function)(void); /* of the type above that its algorithm names */
} micro_kernel;

typedef struct {
    const micro_kernel *rows;
    int count;
} micro_kernel_table;

extern const micro_kernel_table micro_kernels_baseline;
#if defined(__x86_64__)
extern const micro_kernel_table micro_kernels_avx2, micro_kernels_avx512;
#endif

#endif
