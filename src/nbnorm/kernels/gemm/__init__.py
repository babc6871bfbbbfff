"""GEMM: products of matrices, packed and multiplied in registers, and their epilogue."""
