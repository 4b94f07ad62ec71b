/* The tasks of every step, instantiated for each element type, and the list that names them. */
#include <math.h>
#include <string.h>

#include "element.h"
#include "steps.h"

#define SOURCED_(name, source, type) name##_##source##_##type
#define SOURCED__(name, source, type) SOURCED_(name, source, type)
#define SOURCED(name) SOURCED__(name, SOURCE, TYPE)

typedef int8_t s8;
typedef int16_t s16;
typedef int32_t s32;
typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;

#define TYPE f32
#include "accumulate.h"
#include "bands.h"
#include "correlate.h"
#include "channels.h"
#include "exact.h"
#include "fold.h"
#include "grads.h"
#include "lines.h"
#include "multiply.h"
#include "panels.h"
#include "pool.h"
#include "products.h"
#include "reduce.h"
#include "rest.h"
#include "strips.h"
#include "taps.h"
#include "tiles.h"
#include "weights.h"
#include "fused.h"
#include "blocks.h"
#define SOURCE f32
#include "pack.h"
#include "sum.h"
#undef SOURCE
#undef TYPE

#define TYPE f64
#include "accumulate.h"
#include "bands.h"
#include "correlate.h"
#include "channels.h"
#include "exact.h"
#include "fold.h"
#include "grads.h"
#include "lines.h"
#include "multiply.h"
#include "panels.h"
#include "pool.h"
#include "products.h"
#include "reduce.h"
#include "rest.h"
#include "strips.h"
#include "taps.h"
#include "tiles.h"
#include "weights.h"
#include "fused.h"
#include "blocks.h"
#define SOURCE f64
#include "pack.h"
#include "sum.h"
#undef SOURCE
#undef TYPE

#define TYPE i64
#include "accumulate.h"
#include "bands.h"
#include "correlate.h"
#include "exact.h"
#include "fold.h"
#include "lines.h"
#include "panels.h"
#include "reduce.h"
#include "rest.h"
#define SOURCE s8
#include "pack.h"
#include "sum.h"
#undef SOURCE
#define SOURCE s16
#include "pack.h"
#include "sum.h"
#undef SOURCE
#define SOURCE s32
#include "pack.h"
#include "sum.h"
#undef SOURCE
#define SOURCE i64
#include "pack.h"
#include "sum.h"
#undef SOURCE
#define SOURCE u8
#include "pack.h"
#include "sum.h"
#undef SOURCE
#define SOURCE u16
#include "pack.h"
#include "sum.h"
#undef SOURCE
#define SOURCE u32
#include "pack.h"
#include "sum.h"
#undef SOURCE
#undef TYPE

#define TYPED(type)                                                                                                    \
    {"accumulate_" #type, type##_accumulate}, {"bands_" #type, type##_bands}, {"correlate_" #type, type##_correlate},  \
        {"exact_" #type, type##_exact}, {"fold_" #type, type##_fold}, {"lines_" #type, type##_lines},                  \
        {"panels_" #type, type##_panels}, {"reduce_" #type, type##_reduce}, {"rest_" #type, type##_rest},
#define REAL(type)                                                                                                     \
    {"blocks_" #type, type##_blocks}, {"channels_" #type, type##_channels}, {"fused_" #type, type##_fused},            \
        {"grads_" #type, type##_grads}, {"maxpool_" #type, type##_max_pool},                                           \
        {"maxpoolgrad_" #type, type##_max_pool_grad}, {"multiply_" #type, type##_multiply},                            \
        {"products_" #type, type##_products}, {"strips_" #type, type##_strips}, {"taps_" #type, type##_taps},          \
        {"tiles_" #type, type##_tiles}, {"weigh_" #type, type##_weigh}, {"weights_" #type, type##_weights},
#define FROM(source, type)                                                                                             \
    {"pack_" #source "_" #type, pack_##source##_##type}, {"sum_" #source "_" #type, sum_##source##_##type},

const named_task named_tasks[] = {TYPED(f32) TYPED(f64) TYPED(i64) REAL(f32) REAL(f64) FROM(f32, f32) FROM(
    f64, f64) FROM(s8, i64) FROM(s16, i64) FROM(s32, i64) FROM(i64, i64) FROM(u8, i64) FROM(u16, i64) FROM(u32, i64)};
const int named_task_count = sizeof named_tasks / sizeof named_tasks[0];
