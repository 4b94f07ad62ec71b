/* The steps a plan is made of.  A step is a number of tasks that may run in any order, on any thread.
 *
 * All sizes, offsets and strides are in elements (of the source's type for src_*, of the step's type elsewhere).
 * Operands are reached by the number of their buffer.  A task writes nothing another task of its step reads.
 * SCRATCH is the thread's own.  `images` is how many images the buffers hold in this call: the last batch of a run may
 * be short.
 */
#ifndef CONVCORE_STEPS_H
#define CONVCORE_STEPS_H

#include "micro.h"

enum { FIRST, SECOND, BIAS, OUT, WORKSPACE, SCRATCH, NAN_SEEN, BUFFERS };

typedef void (*task_function)(const void *step, char *const *buffers, index_t images, index_t task);

/* Positions 0 .. size-1 of a packed axis; those in lo .. hi-1 are found in the source at base + position*step. */
typedef struct {
    index_t size, lo, hi, base, step;
} axis;

/* pack.h */
typedef struct {
    index_t src_buffer, src_offset, src_image, src_channel;
    index_t dst_offset, dst_image, dst_channel, dst_line_phase, dst_column_phase, dst_line, dst_column;
    index_t channels, line_phases, column_phases, phases_per_task, line_blocks, lines_per_block, negate, has_room;
} pack_sizes;
enum { MAX_PHASES_PER_TASK = 16 };
typedef struct {
    pack_sizes sizes;
    const micro_kernel *turn, *collect; /* or NULL */
    const axis *lines, *columns;        /* one for each phase */
    const index_t *line_of, *column_of; /* NULL, or for each phase and position the source of what is not inside */
    const void *fill;
} pack_step;

/* correlate.h; panels.h too has so many tiles, and pixels of them, at most */
enum { MAX_TILES_PER_TASK = 32, MAX_PIXELS_PER_TASK = 512 };
enum tile_way { SIDE_BY_SIDE, IN_RUNS, BUFFERED }; /* how a tile of results is stored */
typedef struct {
    index_t a_buffer, a_offset, a_image, a_group;
    index_t b_buffer, b_offset, b_image, b_group;
    index_t bias_buffer; /* or -1 */
    index_t out_buffer, out_offset, out_image, out_group, out_line, out_column;
    index_t groups, rows, lines, width, pitch, pixels, length;
    index_t interleaved, other_width, other_length; /* interleaved: gathers of one line of the result, 2 or 1 */
    index_t row_tasks, blocks_per_task, tiles, tile_tasks, tiles_per_task;
    index_t watch_nan;
} correlate_sizes;
typedef struct {
    correlate_sizes sizes;
    const micro_kernel *kernel, *interleave; /* interleave: or NULL */
    const index_t *offsets, *a_row, *out_row, *tile_row;
    const index_t *inside; /* exact.h */
} correlate_step;

/* rest.h */
enum { MAX_REST = 4, MAX_REST_ROWS = 128 }; /* pixels, and rows at a time */
typedef struct {
    index_t a_buffer, a_offset, a_group;
    index_t b_buffer, b_offset, b_image, b_group;
    index_t bias_buffer; /* or -1 */
    index_t out_buffer, out_offset, out_image, out_group, out_column;
    index_t groups, rows, length, pixels, row_tasks, rows_per_task;
} rest_sizes;
typedef struct {
    rest_sizes sizes;
    const micro_kernel *kernel;
    const index_t *offsets, *a_row, *out_row;
} rest_step;

/* band.h */
typedef struct {
    index_t x_channel; /* of the source */
    index_t line_phases, column_phases;
    index_t channel, phase, pitch; /* of the band */
} band_sizes;
typedef struct {
    band_sizes sizes;
    const axis *lines, *columns;        /* one for each phase */
    const index_t *line_of, *column_of; /* as in pack.h */
    const void *fill;
} band;
enum { MAX_BAND_BYTES = 1 << 16 };
typedef void band_function(const band *s, const void *x, index_t channels, index_t first_line, index_t first_column,
                           index_t lines, index_t columns, void *to);

/* panels.h */
typedef struct {
    index_t a_buffer, a_offset, a_group, a_chunk, a_repeat, a_step;
    index_t b_buffer, b_offset, b_image, b_group, b_chunk, b_column;
    index_t bias_buffer; /* or -1 */
    index_t out_buffer, out_offset, out_image, out_group, out_line, out_column;
    index_t rows, lines, width, pitch;
    index_t channels, channels_at_once, taps, even; /* even: all terms are a_step apart */
    index_t tile_tasks, tiles_per_task, row_tasks, blocks_per_task, panel,
        sums_offset; /* panel: from one to the next */
    index_t may_overrun, watch_nan;
} panels_sizes;
typedef struct {
    panels_sizes sizes;
    const micro_kernel *kernel, *collect;
    const index_t *offsets, *a_row, *out_row, *tile_row;
} panels_step;

/* channels.h */
typedef struct {
    index_t x_image, x_group;
    index_t a_buffer;
    index_t bias_buffer; /* or -1 */
    index_t out_buffer, out_offset, out_image, out_group, out_channel, out_line, out_column;
    index_t groups, rows, channels, channels_at_once; /* rows: channels of the result of a group */
    index_t gathers, interleaved;                     /* gathers of one line of the result: 2 or 1 */
    index_t pieces, panels, panel_tasks, panels_per_task;
    index_t more_lines, more_columns; /* of a band than of its piece */
    index_t turned_offset, band_offset, weight_offset;
    index_t on_stack, packs;                      /* packs: A is the weight where it lies, a task packs its panels */
    index_t a_group, a_row, a_channel, a_in_line; /* a_in_line: terms lie side by side */
    index_t watch_nan;
} channels_sizes;
typedef struct {
    channels_sizes sizes;
    const micro_kernel *kernel, *turn, *fill;
    band band;
    const index_t *pieces, *gathers, *offsets, *tile_row;
    const index_t *a_terms; /* where the terms of a row of the weight lie */
} channels_step;
enum { MAX_DEALT_TAPS = 32 }; /* that are turned together */
/* A gather: where its pixels begin in the result, its size, its taps, its offsets, and where its weight begins. */
enum { GATHER_OFFSET, GATHER_LINES, GATHER_WIDTH, GATHER_TAPS, GATHER_TERMS, GATHER_WEIGHT, GATHER_SIZES };

/* bands.h */
typedef struct {
    index_t x_image, x_group;
    index_t w_image, w_group, w_row, w_channel, w_line, w_column;
    index_t bias_buffer; /* or -1 */
    index_t out_buffer, out_offset, out_image, out_group, out_row, out_line, out_column;
    index_t groups, groups_per_task, groups_at_once, rows, channels, gathers,
        interleaved; /* gathers of one line of the result: 2 or 1 */
    index_t line_step, column_step;
    index_t more_lines, more_columns; /* of a band than of its piece */
    index_t pieces, over_images, watch_nan, skip_zeros;
} sliding_sizes;
typedef struct {
    sliding_sizes sizes;
    const micro_kernel *kernel;
    band band;
    const index_t *pieces, *gathers, *patches; /* sliding.h */
} sliding_step;
enum { ADD = 1, SKIP_ZEROS = 2 }; /* how: to what the result has; no lines that are all zeros */
typedef void sliding_function(const sliding_step *s, const index_t *piece, const void *x, const void *w,
                              const void *bias, int how, void *out, index_t groups);

/* strips.h */
typedef struct {
    index_t x_image, x_channel, x_lines, x_width;
    index_t w_first, w_line, w_column; /* of the taps of a plane: where the first lies, and from one to the next */
    index_t bias_buffer;               /* or -1 */
    index_t out_image, out_channel, out_lines, out_width;
    index_t groups, groups_per_task, rows, pieces, lines_per_piece; /* rows: planes of the result of a group */
    index_t step, scatter, top, left, planes;                       /* strip.h */
    index_t watch_nan, skip_zeros;
} strips_sizes;
typedef struct {
    strips_sizes sizes;
    const micro_kernel *kernel;
} strips_step;
enum { MAX_STRIP_TAPS = 7 };
typedef void strip_function(const strips_sizes *z, const void *x, const void *w, const void *bias, int skip,
                            index_t first, index_t lines, index_t groups, void *out);
typedef void weigh_function(const strips_sizes *z, const void *x, const void *g, index_t images, index_t groups,
                            void *out);

/* accumulate.h */
typedef struct {
    index_t a_buffer, a_offset, a_group, a_image, a_line;
    index_t b_buffer, b_offset, b_group, b_panel, b_image, b_line;
    index_t b_channel; /* of an operand that a task turns itself */
    index_t out_offset, out_part, out_group;
    index_t groups, parts, rows, columns, lanes; /* lanes: columns, padded to whole tiles */
    index_t images, lines, lines_at_once;        /* images: 0 for as many as there are */
    index_t repeats_per_line, length, a_step, a_repeat, b_repeat;
    index_t row_blocks, row_tasks, blocks_per_task, one_batch, complete, turned;
} accumulate_sizes;
typedef struct {
    accumulate_sizes sizes;
    const micro_kernel *kernel, *turn; /* turn: of tiles that are complete, or of B; or NULL */
    const index_t *a_row, *out_row;    /* out_row: of a tile, if it is complete */
} accumulate_step;

/* lines.h */
typedef struct {
    index_t x_buffer, x_offset, x_image, x_group, x_pitch, in_place; /* in_place: there is no band */
    index_t g_buffer, g_offset, g_image, g_channel, g_line;
    index_t out_buffer, out_offset, out_part, out_channel, one_batch;
    index_t groups, groups_per_task, k_per_group, channels, rows; /* channels: some of a group's; rows: times taps */
    index_t lines, width, more_lines, more_columns, lines_at_once, columns_at_once, parts;
} lines_sizes;
typedef struct {
    lines_sizes sizes;
    const micro_kernel *kernel;
    band band;
    const index_t *a_row;
} lines_step;
typedef void dot_function(const lines_step *s, const void *x, const void *g, const index_t *chunk, int add, void *out);

/* reduce.h */
typedef struct {
    index_t src_offset, src_part, src_group, src_row, src_lane;
    index_t parts, rows, lanes, interleave, lane_blocks;
} reduce_sizes;
typedef struct {
    reduce_sizes sizes;
} reduce_step;

/* tiles.h; a tile has line_m * column_m results, line_n * column_n points and as many pixels */
typedef struct {
    index_t src_image, src_plane; /* src_plane: elements of a channel, if its lines are dense */
    index_t dst_offset, dst_block, dst_point;
    index_t tile_lines, tile_columns, lanes, first_block, blocks, blocks_at_once;
    index_t channels, channel_tasks, channels_per_task;
    index_t line_m, line_n, line_pieces, line_phases, column_m, column_n, column_pieces;
    index_t more_lines, more_columns;             /* of a band than its tiles have results */
    index_t band_offset, half_offset, half_plane; /* of the scratch memory; after the band; of one line of each tile */
} tiles_sizes;
typedef struct {
    tiles_sizes sizes;
    band band;
    const micro_kernel *pixels, *points, *fill_band;
    const index_t *piece_lines; /* of every line piece and line of a tile: its half plane, and tile lines further on */
    const index_t *column_pieces; /* where in a band of the first line phase the piece begins */
    const index_t *out_offsets;
} tiles_step;

/* weights.h */
typedef struct {
    index_t src_row, src_term, dst_offset, dst_block, dst_rows, dst_point;
    index_t first_row, rows, terms, term_tasks, terms_per_task;
    index_t taps, kernel_lines, line_r, column_r, column_n, line_pieces, column_pieces, lines_at_once, tap_line, size;
} weights_sizes;
typedef struct {
    weights_sizes sizes;
    const micro_kernel *kernel, *along_columns, *turn;
    const micro_kernel *whole; /* NULL, or all points at once, of line_r * column_r taps for each piece */
    const index_t *whole_taps, *whole_offsets;
    const index_t *column_taps; /* of every line of a kernel and every piece of a line */
    const index_t *line_taps;   /* of every piece, in half-transformed lines */
    const index_t *half_offsets, *out_offsets;
} weights_step;

/* multiply.h */
typedef struct {
    index_t a_offset, a_point, a_step;
    index_t b_offset, b_block, b_point;
    index_t bias_buffer; /* or -1 */
    index_t out_image, out_line, out_column;
    index_t height, width; /* of the result */
    index_t tile_lines, tile_columns, first_block;
    index_t first_row, last_row, points, bias_point, column_n, length, row_tasks, rows_per_task;
} multiply_sizes;
typedef struct {
    multiply_sizes sizes;
    const micro_kernel *kernel, *transform, *output; /* transform: along columns; output: along lines */
    const index_t *a_row, *out_row, *tile_row;
    const index_t *in_offsets, *out_offsets;
} multiply_step;

/* blocks.h */
typedef struct {
    tiles_step tiles;
    multiply_step multiply;
} blocks_step;

/* fused.h */
typedef struct {
    index_t v_offset, v_point, v_step; /* of the points of tiles: from term to term as well */
    index_t bias_buffer;               /* or -1 */
    index_t out_image, out_channel, out_line, out_column;
    index_t height, width, tile_lines, tile_columns, tiles; /* of the result; in all images */
    index_t rows, points, column_n, terms, pieces, terms_at_once, sums_offset, u_point;
    index_t prepacked; /* SECOND is U of all rows and terms */
} fused_sizes;
typedef struct {
    fused_sizes sizes;
    weights_step weights;
    const micro_kernel *kernel, *transform, *along_lines; /* transform: along columns */
    const index_t *a_row, *tile_row;                      /* for every tile */
    const index_t *in_offsets, *half_offsets, *line_offsets;
} fused_step;

/* grads.h */
typedef struct {
    index_t src_image, src_channel, src_line, src_column;
    index_t dst_offset, dst_tile, dst_panel, panel; /* panel: channels side by side */
    index_t height, width, tile_lines, tile_columns, tiles, first_block;
    index_t channels, channel_tasks;
} grads_sizes;
typedef struct {
    grads_sizes sizes;
    const micro_kernel *kernel, *turn; /* turn: or NULL */
    const index_t *out_offsets;
} grads_step;

/* products.h */
typedef struct {
    index_t v_offset, v_point, v_block, g_offset, g_point, g_panel;
    index_t rows, columns, row_blocks, points, blocks, tiles, last_tiles; /* tiles: of a block; of the last */
} products_sizes;
typedef struct {
    products_sizes sizes;
    const micro_kernel *kernel, *transform, *turn; /* turn: or NULL */
    const index_t *a_row, *tile_row;
    const index_t *in_offsets, *out_offsets;
} products_step;

/* taps.h */
typedef struct {
    index_t src_offset, src_c;
    index_t k, c, c_tasks, c_per_task;
} taps_sizes;
typedef struct {
    taps_sizes sizes;
    const micro_kernel *kernel;
    const index_t *in_offsets, *out_offsets;
} taps_step;

/* fold.h */
typedef struct {
    index_t src_offset, src_image, src_channel, src_line, left;
    index_t bias_buffer; /* or -1 */
    index_t out_image, out_channel, out_line, column;
    index_t channels, lines, width, outside, interleave;
} fold_sizes;
typedef struct {
    fold_sizes sizes;
    const index_t *line_ends, *line_of; /* lines that are pixel line h: line_of[line_ends[h] .. line_ends[h+1]-1] */
    const index_t *column_of;           /* pairs: a column outside, the pixel column it is */
} fold_step;

/* sum.h */
typedef struct {
    index_t src_image, src_channel, src_pixel;
    index_t pixels, interleave;
} sum_sizes;
typedef struct {
    sum_sizes sizes;
} sum_step;

/* pool.h: x and its gradient are in_*, y and its gradient out_* */
typedef struct {
    index_t in_image, in_channel, in_line, out_image, out_channel, out_line, column;
    index_t channels, height, width, out_height, out_width;
    index_t kernel_height, kernel_width, line_step, column_step, top, left;
    index_t blocks, lines_per_block;
} pool_sizes;
typedef struct {
    pool_sizes sizes;
} pool_step;

typedef struct {
    const char *name; /* step_dtype, or step_source_dtype */
    task_function function;
} named_task;

extern const named_task named_tasks[];
extern const int named_task_count;

#endif
