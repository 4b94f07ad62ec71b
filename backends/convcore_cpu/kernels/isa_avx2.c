/* AVX2 with fused multiply-add: x86-64 since Haswell and Zen. */
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define ISA avx2
#define VECTOR_BYTES 32
#define VECTOR_REGISTERS 16
#define HAS_MASKED_LOADS
#include "isa_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
