// The products of many columns for types with codes that are places in a grid.

#include "matmul.cuh"

MATMUL(IQ1_S)
MATMUL(IQ1_M)
MATMUL(IQ2_XXS)
MATMUL(IQ2_XS)
MATMUL(IQ2_S)
MATMUL(IQ3_XXS)
MATMUL(IQ3_S)
