# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Multiply-adds on registers alone: what the arithmetic of a core can do at most.

Binds a loop in C, below, for every instruction set.  The GIL is released while it runs; it owns no memory.
"""

cdef extern from *:
    """
    /* Twelve independent chains hide the latency of a multiply-add on two ports (4 cycles x 2 = 8), and fit, with the
     * factor and the addend, in the 16 registers of the smallest instruction set.  The factor is below one and the sum
     * converges to 1, so that no number leaves the normal range. */
    enum { CHAINS = 12 };

    #define LOOP(NAME, TARGET, TYPE, BYTES)                                                                    \
        typedef TYPE vector_##NAME __attribute__((vector_size(BYTES)));                                        \
        TARGET static double NAME(long rounds, double factor) {                                                \
            vector_##NAME sums[CHAINS], by, plus;                                                              \
            const int lanes = BYTES / sizeof(TYPE);                                                            \
            for (int j = 0; j < lanes; j++) by[j] = (TYPE)factor, plus[j] = (TYPE)(1 - factor);                \
            for (int i = 0; i < CHAINS; i++) sums[i] = by * (TYPE)i;                                           \
            while (rounds--) {                                                                                 \
                for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * by + plus;                                \
            }                                                                                                  \
            for (int i = 1; i < CHAINS; i++) sums[0] += sums[i];                                               \
            return (double)sums[0][0];                                                                         \
        }

    typedef struct {
        const char *isa, *dtype;
        double (*run)(long rounds, double factor);
        int flops;
    } fma_loop;

    #define ROW(ISA, DTYPE, NAME, TYPE, BYTES) {ISA, DTYPE, NAME, 2 * CHAINS * BYTES / (int)sizeof(TYPE)}

    LOOP(f32_baseline, , float, 16)
    LOOP(f64_baseline, , double, 16)
    #if defined(__x86_64__)
    LOOP(f32_avx2, __attribute__((target("avx2,fma"))), float, 32)
    LOOP(f64_avx2, __attribute__((target("avx2,fma"))), double, 32)
    LOOP(f32_avx512, __attribute__((target("avx512f"))), float, 64)
    LOOP(f64_avx512, __attribute__((target("avx512f"))), double, 64)
    #endif

    static const fma_loop loops[] = {
        ROW("baseline", "float32", f32_baseline, float, 16),
        ROW("baseline", "float64", f64_baseline, double, 16),
    #if defined(__x86_64__)
        ROW("avx2", "float32", f32_avx2, float, 32),
        ROW("avx2", "float64", f64_avx2, double, 32),
        ROW("avx512", "float32", f32_avx512, float, 64),
        ROW("avx512", "float64", f64_avx512, double, 64),
    #endif
    };
    enum { LOOPS = sizeof loops / sizeof loops[0] };
    """
    ctypedef struct fma_loop:
        const char *isa
        const char *dtype
        double (*run)(long rounds, double factor) nogil
        int flops
    const fma_loop *loops
    int LOOPS


def multiply_add(str isa, str dtype, long rounds, double factor=0.5):
    """Run ``rounds`` of the loop of an instruction set and return how many operations that were.

    Parameters
    ----------
    isa : "baseline", "avx2" or "avx512"
        One that this processor has.
    dtype : "float32" or "float64"
    rounds : int
    factor : float
        The number multiplied by; the compiler must not know it.
    """
    cdef const fma_loop *loop
    cdef double result
    for i in range(LOOPS):
        loop = &loops[i]
        if loop.isa.decode() == isa and loop.dtype.decode() == dtype:
            with nogil:
                result = loop.run(rounds, factor)
            if not 0.0 < result < 1e3:
                raise ArithmeticError(f"the sum must converge to {12}, got {result}")
            return rounds * loop.flops
    raise ValueError(f"no loop of multiply-adds for isa {isa!r} and dtype {dtype!r}")
