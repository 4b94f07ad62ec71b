/* The element types the micro-kernels and tasks are written for, and how a file is instantiated for one of them.
 *
 * A template file is included once for each type, with TYPE defined as its short name; NAMED(x) then gives x a name
 * of its own for that type.  Integers are unsigned here so that the dropped lanes of a tile may wrap; the values kept
 * are the same two's complement ones, and the caller has made sure that those cannot overflow.
 */
#ifndef CONVCORE_ELEMENT_H
#define CONVCORE_ELEMENT_H

#include <stdint.h>

typedef float f32;
typedef double f64;
typedef uint64_t i64;

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define NAMED(x) JOIN(TYPE, x)

#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define UNROLL PRAGMA(clang loop unroll(full))
#else
#define UNROLL PRAGMA(GCC unroll 64)
#endif

#endif
