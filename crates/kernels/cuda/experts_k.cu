#include "blocks/k.cuh"
#include "experts.cuh"

EXPERTS(Q2_K)
EXPERTS(Q3_K)
EXPERTS(Q4_K)
EXPERTS(Q5_K)
EXPERTS(Q6_K)
EXPERTS(IQ4_XS)
