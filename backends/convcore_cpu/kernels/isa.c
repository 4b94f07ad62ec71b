#include "isa.h"

static int always(void) { return 1; }

#if defined(__x86_64__)
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
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

int isa_available(int isa) { return isas[isa].available(); }

const micro_kernel_table *isa_micro_kernels(int isa) { return isas[isa].table; }
