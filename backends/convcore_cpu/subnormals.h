/* Subnormal numbers as zeros, on the thread that asks, where the processor is slow with them.
 *
 * Intel's take some 150 cycles for an instruction that meets one.  AMD's since Zen do not care (64->64 3x3 56^2 takes
 * 1.13 ms with nothing but subnormal numbers, 1.16 ms with none), nor do ARM's: there nothing is flushed.
 *
 * The caller hands what flush_subnormals() returns to restore_subnormals().
 */
#ifndef CONVCORE_SUBNORMALS_H
#define CONVCORE_SUBNORMALS_H

#if defined(__x86_64__)
static inline unsigned flush_subnormals(void) {
    const unsigned before = __builtin_ia32_stmxcsr();
    /* FTZ, results, and DAZ, operands */
    if (__builtin_cpu_is("intel")) __builtin_ia32_ldmxcsr(before | 0x8040);
    return before;
}
static inline void restore_subnormals(unsigned before) { __builtin_ia32_ldmxcsr(before); }
#else
static inline unsigned flush_subnormals(void) { return 0; }
static inline void restore_subnormals(unsigned before) { (void)before; }
#endif

#endif
