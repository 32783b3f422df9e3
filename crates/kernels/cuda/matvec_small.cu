#include "blocks/small.cuh"
#include "matvec.cuh"

MATVECS(Q4_0)
MATVECS(Q4_1)
MATVECS(Q5_0)
MATVECS(Q5_1)
MATVECS(Q8_0)
MATVECS(IQ4_NL)
MATVECS(MXFP4)
