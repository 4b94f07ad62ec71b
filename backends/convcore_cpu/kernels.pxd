# The C side as Cython sees it: structures of kernels/micro.h and kernels/steps.h, nothing else.
# Every *_sizes structure holds nothing but index_t, so a dict of ints with the same keys becomes one by assignment.

cdef extern from "kernels/micro.h" nogil:
    ctypedef Py_ssize_t index_t

    ctypedef struct micro_kernel:
        const char *name
        const char *dtype
        const char *algorithm
        const char *isa
        int rows, columns, vector_bytes

    ctypedef struct micro_kernel_table:
        const micro_kernel *rows
        int count


cdef extern from "kernels/isa.h" nogil:
    int isa_count()
    const char *isa_name(int isa)
    int isa_available(int isa)
    double isa_multiply(int isa)
    const micro_kernel_table *isa_micro_kernels(int isa)


cdef extern from "kernels/steps.h" nogil:
    enum:
        FIRST, SECOND, BIAS, OUT, WORKSPACE, SCRATCH, NAN_SEEN, BUFFERS
        MAX_TILES_PER_TASK
        MAX_PIXELS_PER_TASK
        MAX_PHASES_PER_TASK
        MAX_REST
        MAX_REST_ROWS
        MAX_BAND_BYTES

    ctypedef void (*task_function)(const void *step, char **buffers, index_t images, index_t task) noexcept nogil

    ctypedef struct axis:
        index_t size, lo, hi, base, step

    ctypedef struct pack_sizes:
        index_t src_buffer, src_offset, src_image, src_channel
        index_t dst_offset, dst_image, dst_channel, dst_line_phase, dst_column_phase, dst_line, dst_column
        index_t channels, line_phases, column_phases, phases_per_task, line_blocks, lines_per_block, negate, has_room

    ctypedef struct pack_step:
        pack_sizes sizes
        const micro_kernel *turn
        const micro_kernel *collect
        const axis *lines
        const axis *columns
        const index_t *line_of
        const index_t *column_of
        const void *fill

    ctypedef struct correlate_sizes:
        index_t a_buffer, a_offset, a_image, a_group
        index_t b_buffer, b_offset, b_image, b_group
        index_t bias_buffer
        index_t out_buffer, out_offset, out_image, out_group, out_line, out_column
        index_t groups, rows, lines, width, pitch, pixels, length
        index_t interleaved, other_width, other_length
        index_t row_tasks, blocks_per_task, tiles, tile_tasks, tiles_per_task
        index_t watch_nan

    ctypedef struct correlate_step:
        correlate_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *interleave
        const index_t *offsets
        const index_t *a_row
        const index_t *out_row
        const index_t *tile_row
        const index_t *inside

    ctypedef struct rest_sizes:
        index_t a_buffer, a_offset, a_group
        index_t b_buffer, b_offset, b_image, b_group
        index_t bias_buffer
        index_t out_buffer, out_offset, out_image, out_group, out_column
        index_t groups, rows, length, pixels, row_tasks, rows_per_task

    ctypedef struct rest_step:
        rest_sizes sizes
        const micro_kernel *kernel
        const index_t *offsets
        const index_t *a_row
        const index_t *out_row

    ctypedef struct band_sizes:
        index_t x_channel
        index_t line_phases, column_phases
        index_t channel, phase, pitch

    ctypedef struct band:
        band_sizes sizes
        const axis *lines
        const axis *columns
        const index_t *line_of
        const index_t *column_of
        const void *fill

    ctypedef struct panels_sizes:
        index_t a_buffer, a_offset, a_group, a_chunk, a_repeat, a_step
        index_t b_buffer, b_offset, b_image, b_group, b_chunk, b_column
        index_t bias_buffer
        index_t out_buffer, out_offset, out_image, out_group, out_line, out_column
        index_t rows, lines, width, pitch
        index_t channels, channels_at_once, taps, even
        index_t tile_tasks, tiles_per_task, row_tasks, blocks_per_task, panel, sums_offset
        index_t may_overrun, watch_nan

    ctypedef struct panels_step:
        panels_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *collect
        const index_t *offsets
        const index_t *a_row
        const index_t *out_row
        const index_t *tile_row

    ctypedef struct channels_sizes:
        index_t x_image, x_group
        index_t a_buffer
        index_t bias_buffer
        index_t out_buffer, out_offset, out_image, out_group, out_channel, out_line, out_column
        index_t groups, rows, channels, channels_at_once
        index_t gathers, interleaved
        index_t pieces, panels, panel_tasks, panels_per_task
        index_t more_lines, more_columns
        index_t turned_offset, band_offset, weight_offset
        index_t on_stack, packs
        index_t a_group, a_row, a_channel, a_in_line
        index_t watch_nan

    ctypedef struct channels_step:
        channels_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *turn
        const micro_kernel *fill
        band band
        const index_t *pieces
        const index_t *gathers
        const index_t *offsets
        const index_t *tile_row
        const index_t *a_terms

    ctypedef struct sliding_sizes:
        index_t x_image, x_group
        index_t w_image, w_group, w_row, w_channel, w_line, w_column
        index_t bias_buffer
        index_t out_buffer, out_offset, out_image, out_group, out_row, out_line, out_column
        index_t groups, groups_per_task, groups_at_once, rows, channels, gathers, interleaved
        index_t line_step, column_step
        index_t more_lines, more_columns
        index_t pieces, over_images, watch_nan, skip_zeros

    ctypedef struct sliding_step:
        sliding_sizes sizes
        const micro_kernel *kernel
        band band
        const index_t *pieces
        const index_t *gathers
        const index_t *patches

    ctypedef struct strips_sizes:
        index_t x_image, x_channel, x_lines, x_width
        index_t w_first, w_line, w_column
        index_t bias_buffer
        index_t out_image, out_channel, out_lines, out_width
        index_t groups, groups_per_task, rows, pieces, lines_per_piece
        index_t step, scatter, top, left, planes
        index_t watch_nan, skip_zeros

    ctypedef struct strips_step:
        strips_sizes sizes
        const micro_kernel *kernel

    ctypedef struct accumulate_sizes:
        index_t a_buffer, a_offset, a_group, a_image, a_line
        index_t b_buffer, b_offset, b_group, b_panel, b_image, b_line, b_channel
        index_t out_offset, out_part, out_group
        index_t groups, parts, rows, columns, lanes
        index_t images, lines, lines_at_once, repeats_per_line
        index_t length, a_step, a_repeat, b_repeat
        index_t row_blocks, row_tasks, blocks_per_task, one_batch, complete, turned

    ctypedef struct accumulate_step:
        accumulate_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *turn
        const index_t *a_row
        const index_t *out_row

    ctypedef struct lines_sizes:
        index_t x_buffer, x_offset, x_image, x_group, x_pitch, in_place
        index_t g_buffer, g_offset, g_image, g_channel, g_line
        index_t out_buffer, out_offset, out_part, out_channel, one_batch
        index_t groups, groups_per_task, k_per_group, channels, rows
        index_t lines, width, more_lines, more_columns, lines_at_once, columns_at_once, parts

    ctypedef struct lines_step:
        lines_sizes sizes
        const micro_kernel *kernel
        band band
        const index_t *a_row

    ctypedef struct reduce_sizes:
        index_t src_offset, src_part, src_group, src_row, src_lane
        index_t parts, rows, lanes, interleave, lane_blocks

    ctypedef struct reduce_step:
        reduce_sizes sizes

    ctypedef struct tiles_sizes:
        index_t src_image, src_plane
        index_t dst_offset, dst_block, dst_point
        index_t tile_lines, tile_columns, lanes, first_block, blocks, blocks_at_once
        index_t channels, channel_tasks, channels_per_task
        index_t line_m, line_n, line_pieces, line_phases, column_m, column_n, column_pieces
        index_t more_lines, more_columns
        index_t band_offset, half_offset, half_plane

    ctypedef struct tiles_step:
        tiles_sizes sizes
        band band
        const micro_kernel *pixels
        const micro_kernel *points
        const micro_kernel *fill_band
        const index_t *piece_lines
        const index_t *column_pieces
        const index_t *out_offsets

    ctypedef struct weights_sizes:
        index_t src_row, src_term, dst_offset, dst_block, dst_rows, dst_point
        index_t first_row, rows, terms, term_tasks, terms_per_task
        index_t taps, kernel_lines, line_r, column_r, column_n, line_pieces, column_pieces
        index_t lines_at_once, tap_line, size

    ctypedef struct weights_step:
        weights_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *along_columns
        const micro_kernel *whole
        const index_t *whole_taps
        const index_t *whole_offsets
        const micro_kernel *turn
        const index_t *column_taps
        const index_t *line_taps
        const index_t *half_offsets
        const index_t *out_offsets

    ctypedef struct multiply_sizes:
        index_t a_offset, a_point, a_step
        index_t b_offset, b_block, b_point
        index_t bias_buffer
        index_t out_image, out_line, out_column
        index_t height, width
        index_t tile_lines, tile_columns, first_block
        index_t first_row, last_row, points, bias_point, column_n, length, row_tasks, rows_per_task

    ctypedef struct multiply_step:
        multiply_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *transform
        const micro_kernel *output
        const index_t *a_row
        const index_t *out_row
        const index_t *tile_row
        const index_t *in_offsets
        const index_t *out_offsets

    ctypedef struct blocks_step:
        tiles_step tiles
        multiply_step multiply

    ctypedef struct fused_sizes:
        index_t v_offset, v_point, v_step
        index_t bias_buffer
        index_t out_image, out_channel, out_line, out_column
        index_t height, width, tile_lines, tile_columns, tiles
        index_t rows, points, column_n, terms, pieces, terms_at_once, sums_offset, u_point
        index_t prepacked

    ctypedef struct fused_step:
        fused_sizes sizes
        weights_step weights
        const micro_kernel *kernel
        const micro_kernel *transform
        const micro_kernel *along_lines
        const index_t *a_row
        const index_t *tile_row
        const index_t *in_offsets
        const index_t *half_offsets
        const index_t *line_offsets

    ctypedef struct grads_sizes:
        index_t src_image, src_channel, src_line, src_column
        index_t dst_offset, dst_tile, dst_panel, panel
        index_t height, width, tile_lines, tile_columns, tiles, first_block
        index_t channels, channel_tasks

    ctypedef struct grads_step:
        grads_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *turn
        const index_t *out_offsets

    ctypedef struct products_sizes:
        index_t v_offset, v_point, v_block, g_offset, g_point, g_panel
        index_t rows, columns, row_blocks, points, blocks, tiles, last_tiles

    ctypedef struct products_step:
        products_sizes sizes
        const micro_kernel *kernel
        const micro_kernel *transform
        const micro_kernel *turn
        const index_t *a_row
        const index_t *tile_row
        const index_t *in_offsets
        const index_t *out_offsets

    ctypedef struct taps_sizes:
        index_t src_offset, src_c
        index_t k, c, c_tasks, c_per_task

    ctypedef struct taps_step:
        taps_sizes sizes
        const micro_kernel *kernel
        const index_t *in_offsets
        const index_t *out_offsets

    ctypedef struct fold_sizes:
        index_t src_offset, src_image, src_channel, src_line, left
        index_t bias_buffer
        index_t out_image, out_channel, out_line, column
        index_t channels, lines, width, outside, interleave

    ctypedef struct fold_step:
        fold_sizes sizes
        const index_t *line_ends
        const index_t *line_of
        const index_t *column_of

    ctypedef struct sum_sizes:
        index_t src_image, src_channel, src_pixel
        index_t pixels, interleave

    ctypedef struct sum_step:
        sum_sizes sizes

    ctypedef struct pool_sizes:
        index_t in_image, in_channel, in_line, out_image, out_channel, out_line, column
        index_t channels, height, width, out_height, out_width
        index_t kernel_height, kernel_width, line_step, column_step, top, left
        index_t blocks, lines_per_block

    ctypedef struct pool_step:
        pool_sizes sizes

    ctypedef struct named_task:
        const char *name
        task_function function

    const named_task named_tasks[]
    int named_task_count
