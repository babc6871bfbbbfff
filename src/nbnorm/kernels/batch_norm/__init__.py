"""Batch norm: sums, statistics, normalization, gradients; and all in one."""
