/* The body of every isa_*.c: the micro-kernels of one instruction set, and the rows that list them.
 *
 * The including file defines ISA, VECTOR_BYTES and VECTOR_REGISTERS, how many there are, and has the compiler target
 * set.
 */
#include "element.h"
#include "steps.h"
#include "table.h"

/* Loads and stores are from any element's address, hence the alignment. */
#define VECTOR(type) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(type)), may_alias)) type
typedef VECTOR(f32) f32_vector;
typedef VECTOR(f64) f64_vector;
typedef VECTOR(i64) i64_vector;
typedef VECTOR(int32_t) f32_mask;
typedef VECTOR(int64_t) f64_mask;
typedef VECTOR(int64_t) i64_mask;

#include "lanes.h"

typedef f32_vector f32_tile[MAX_TILE_ROWS][MAX_TILE_VECTORS];
typedef f64_vector f64_tile[MAX_TILE_ROWS][MAX_TILE_VECTORS];
typedef i64_vector i64_tile[MAX_TILE_ROWS][MAX_TILE_VECTORS];

#define TYPE f32
#include "band.h"
#include "collect.h"
#include "dot.h"
#include "inner.h"
#include "interleave.h"
#include "outer.h"
#include "panel.h"
#include "sliding.h"
#include "winograd.h"
#include "turn.h"
#if defined(HAS_SETS)
#include "strip.h"
#endif
#undef TYPE
#define TYPE f64
#include "band.h"
#include "collect.h"
#include "dot.h"
#include "inner.h"
#include "interleave.h"
#include "outer.h"
#include "panel.h"
#include "sliding.h"
#include "winograd.h"
#include "turn.h"
#if defined(HAS_SETS)
#include "strip.h"
#endif
#undef TYPE
#define TYPE i64
#include "band.h"
#include "collect.h"
#include "dot.h"
#include "inner.h"
#include "interleave.h"
#include "outer.h"
#include "panel.h"
#include "sliding.h"
#undef TYPE

#define ARGUMENTS_outer const outer_loop *loop, const void *a, const void *b, const void *init, void *out
#define PASS_outer loop, a, b, init, out
#define ARGUMENTS_dot const lines_step *s, const void *x, const void *g, const index_t *chunk, int add, void *out
#define PASS_dot s, x, g, chunk, add, out
#define ARGUMENTS_panel const panel_loop *loop, const void *a, const void *b, const void *init, void *out
#define PASS_panel loop, a, b, init, out
#define ARGUMENTS_collect const collect_loop *loop, const void *planes, void *panel
#define PASS_collect loop, planes, panel
#define ARGUMENTS_band                                                                                                 \
    const band *s, const void *x, index_t channels, index_t first_line, index_t first_column, index_t lines,           \
        index_t columns, void *to
#define PASS_band s, x, channels, first_line, first_column, lines, columns, to
#define ARGUMENTS_sliding                                                                                              \
    const sliding_step *s, const index_t *piece, const void *x, const void *w, const void *bias, int how, void *out,   \
        index_t groups
#define PASS_sliding s, piece, x, w, bias, how, out, groups
#define ARGUMENTS_strip                                                                                                \
    const strips_sizes *z, const void *x, const void *w, const void *bias, int skip, index_t first, index_t lines,     \
        index_t groups, void *out
#define PASS_strip z, x, w, bias, skip, first, lines, groups, out
#define ARGUMENTS_weigh const strips_sizes *z, const void *x, const void *g, index_t images, index_t groups, void *out
#define PASS_weigh z, x, g, images, groups, out
#define ARGUMENTS_inner const inner_loop *loop, const void *a, const void *terms, void *out
#define PASS_inner loop, a, terms, out
#define ARGUMENTS_interleave const interleave_loop *loop, const void *in, void *out
#define PASS_interleave loop, in, out
#define ARGUMENTS_turn const turn_loop *loop, const void *in, void *out
#define PASS_turn loop, in, out
#define ARGUMENTS_transform const transform_loop *loop, const void *in, void *out
#define PASS_transform loop, in, out
#define ARGUMENTS_winograd_pixels1 ARGUMENTS_transform
#define ARGUMENTS_winograd_weight1 ARGUMENTS_transform
#define ARGUMENTS_winograd_result1 ARGUMENTS_transform
#define ARGUMENTS_winograd_output1 ARGUMENTS_transform
#define ARGUMENTS_winograd_pixels2 ARGUMENTS_transform
#define ARGUMENTS_winograd_weight2 ARGUMENTS_transform
#define ARGUMENTS_winograd_result2 ARGUMENTS_transform
#define ARGUMENTS_winograd_output2 ARGUMENTS_transform
#define ARGUMENTS_winograd_pixels3 ARGUMENTS_transform
#define ARGUMENTS_winograd_weight3 ARGUMENTS_transform
#define ARGUMENTS_winograd_result3 ARGUMENTS_transform
#define ARGUMENTS_winograd_output3 ARGUMENTS_transform
#define ARGUMENTS_winograd_pixels4 ARGUMENTS_transform
#define ARGUMENTS_winograd_weight4 ARGUMENTS_transform
#define ARGUMENTS_winograd_result4 ARGUMENTS_transform
#define ARGUMENTS_winograd_output4 ARGUMENTS_transform
#define ARGUMENTS_winograd_pixels5 ARGUMENTS_transform
#define ARGUMENTS_winograd_weight5 ARGUMENTS_transform
#define ARGUMENTS_winograd_result5 ARGUMENTS_transform
#define ARGUMENTS_winograd_output5 ARGUMENTS_transform
#define PASS_winograd_pixels1 PASS_transform
#define PASS_winograd_weight1 PASS_transform
#define PASS_winograd_result1 PASS_transform
#define PASS_winograd_output1 PASS_transform
#define PASS_winograd_pixels2 PASS_transform
#define PASS_winograd_weight2 PASS_transform
#define PASS_winograd_result2 PASS_transform
#define PASS_winograd_output2 PASS_transform
#define PASS_winograd_pixels3 PASS_transform
#define PASS_winograd_weight3 PASS_transform
#define PASS_winograd_result3 PASS_transform
#define PASS_winograd_output3 PASS_transform
#define PASS_winograd_pixels4 PASS_transform
#define PASS_winograd_weight4 PASS_transform
#define PASS_winograd_result4 PASS_transform
#define PASS_winograd_output4 PASS_transform
#define PASS_winograd_pixels5 PASS_transform
#define PASS_winograd_weight5 PASS_transform
#define PASS_winograd_result5 PASS_transform
#define PASS_winograd_output5 PASS_transform
#define ARGUMENTS_winograd_points ARGUMENTS_transform
#define PASS_winograd_points PASS_transform
#define ARGUMENTS_winograd_kernel ARGUMENTS_transform
#define PASS_winograd_kernel PASS_transform
#define ARGUMENTS_winograd_grad ARGUMENTS_transform
#define ARGUMENTS_winograd_taps ARGUMENTS_transform
#define PASS_winograd_grad PASS_transform
#define PASS_winograd_taps PASS_transform

#define DEFINE(type, algorithm, rows, columns)                                                                         \
    _Static_assert(rows <= MAX_TILE_ROWS && rows * columns <= MAX_TILE && columns <= MAX_TILE_COLUMNS &&               \
                       columns * sizeof(type) <= MAX_TILE_VECTORS * VECTOR_BYTES &&                                    \
                       columns * sizeof(type) % VECTOR_BYTES == 0,                                                     \
                   "a tile is a whole number of vectors, within the limits of micro.h");                               \
    static void type##_##algorithm##_##rows##x##columns(ARGUMENTS_##algorithm) {                                       \
        type##_##algorithm(rows, columns * sizeof(type) / VECTOR_BYTES, PASS_##algorithm);                             \
    }
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define ENTRY(type, algorithm, rows, columns)                                                                          \
    {#type "_" #algorithm "_" #rows "x" #columns "__" TEXT(ISA),                                                       \
     #type,                                                                                                            \
     #algorithm,                                                                                                       \
     TEXT(ISA),                                                                                                        \
     rows,                                                                                                             \
     columns,                                                                                                          \
     VECTOR_BYTES,                                                                                                     \
     (void (*)(void))type##_##algorithm##_##rows##x##columns},

JOIN(MICRO_KERNELS, ISA)(DEFINE)

    static const micro_kernel rows[] = {JOIN(MICRO_KERNELS, ISA)(ENTRY)};
const micro_kernel_table JOIN(micro_kernels, ISA) = {rows, sizeof rows / sizeof rows[0]};
