#include "isa.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static int always(void) { return 1; }

#if defined(__x86_64__)
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

/* Zen 4, the one of AMD's family 19h that has AVX-512, takes two turns for each of its vectors.
 * Source: Software Optimization Guide for the AMD Zen4 Microarchitecture (publication 57647). */
static int takes_two_turns(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || !__get_cpuid(1, &a, &b, &c, &d)) return 0;
    return (a >> 8 & 0xf) + (a >> 20 & 0xff) == 0x19;
}
#endif

static const struct {
    const char *name;
    int (*available)(void);
    const micro_kernel_table *table;
} isas[] = {
    {"baseline", always, &micro_kernels_baseline},
#if defined(__x86_64__)
    {"avx2", has_avx2, &micro_kernels_avx2},
    {"avx512", has_avx512, &micro_kernels_avx512},
#endif
};

int isa_count(void) { return sizeof isas / sizeof isas[0]; }

const char *isa_name(int isa) { return isas[isa].name; }

double isa_multiply(int isa) {
#if defined(__x86_64__)
    if (isas[isa].table == &micro_kernels_avx512 && takes_two_turns()) return 1.0;
    if (isas[isa].table == &micro_kernels_baseline) return 1.0; /* SSE2 multiplies, then adds */
#endif
    (void)isa;
    return 0.5;
}

int isa_available(int isa) { return isas[isa].available(); }

const micro_kernel_table *isa_micro_kernels(int isa) { return isas[isa].table; }
