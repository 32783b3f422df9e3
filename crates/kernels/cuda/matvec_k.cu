#include "blocks/k.cuh"
#include "matvec.cuh"

MATVECS(Q2_K)
MATVECS(Q3_K)
MATVECS(Q4_K)
MATVECS(Q5_K)
MATVECS(Q6_K)
MATVECS(IQ4_XS)
