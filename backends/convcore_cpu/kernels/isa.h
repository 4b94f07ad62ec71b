/* The instruction sets with micro-kernels, in order of preference (the last available one is the best). */
#ifndef CONVCORE_ISA_H
#define CONVCORE_ISA_H

#include "micro.h"

int isa_count(void);
const char *isa_name(int isa);
int isa_available(int isa); /* on the processor this runs on */
/* Cycles for each vector that is multiplied and added: 0.5 where two units are as wide, else 1. */
double isa_multiply(int isa);
const micro_kernel_table *isa_micro_kernels(int isa);

#endif
