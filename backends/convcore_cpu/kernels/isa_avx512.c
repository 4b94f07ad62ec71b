/* AVX-512 F, DQ (64-bit multiplication) and VL: x86-64 since Skylake-SP and Zen 4. */
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,fma,prefer-vector-width=512")
#endif
#define ISA avx512
#define VECTOR_BYTES 64
#define VECTOR_REGISTERS 32
#define HAS_LANE_MASKS
#include "isa_body.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
