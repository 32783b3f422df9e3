#include "blocks/small.cuh"
#include "experts.cuh"

EXPERTS(Q4_0)
EXPERTS(Q4_1)
EXPERTS(Q5_0)
EXPERTS(Q5_1)
EXPERTS(Q8_0)
EXPERTS(IQ4_NL)
EXPERTS(MXFP4)
