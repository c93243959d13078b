"""The back end for NPUs behind LiteRT: a static program in fixed point, for MediaTek's and Qualcomm's compilers."""
