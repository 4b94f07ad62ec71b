/* What every processor of the architecture has: SSE2 on x86-64, NEON on AArch64. */
#define ISA baseline
#define VECTOR_BYTES 16
#include "isa_body.h"
