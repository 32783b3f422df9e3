// The products of many columns for types with blocks of 256 numbers in bit fields.

#include "matmul.cuh"

MATMUL(Q2_K)
MATMUL(Q3_K)
MATMUL(Q4_K)
MATMUL(Q5_K)
MATMUL(Q6_K)
MATMUL(IQ4_XS)
