// The products of many columns for types with blocks of 32 numbers.

#include "matmul.cuh"

MATMUL(Q4_0)
MATMUL(Q4_1)
MATMUL(Q5_0)
MATMUL(Q5_1)
MATMUL(Q8_0)
MATMUL(IQ4_NL)
MATMUL(MXFP4)
