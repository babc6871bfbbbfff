"""Layers: the functions with their parameters, gradients and running statistics held for them."""

from nbnorm.layers.activation import Activation
from nbnorm.layers.base import Layer
from nbnorm.layers.batch_norm import BatchNorm
from nbnorm.layers.compensated import Compensated
from nbnorm.layers.conv2d import Conv2d
from nbnorm.layers.conv2d_batch_norm import Conv2dBatchNorm
from nbnorm.layers.cross_iteration_batch_norm import CrossIterationBatchNorm
from nbnorm.layers.dense import Dense
from nbnorm.layers.dense_batch_norm import DenseBatchNorm
from nbnorm.layers.flatten import Flatten
from nbnorm.layers.ghost_batch_norm import GhostBatchNorm
from nbnorm.layers.group_norm import GroupNorm, InstanceNorm
from nbnorm.layers.norms import L1Normalize, L2Normalize
from nbnorm.layers.penalties import L1Penalty, L2Penalty
from nbnorm.layers.sequential import Sequential
from nbnorm.layers.sgd import SGD
from nbnorm.layers.statistics import merge_running_statistics, update_statistics

__all__ = [
    "SGD",
    "Activation",
    "BatchNorm",
    "Compensated",
    "Conv2d",
    "Conv2dBatchNorm",
    "CrossIterationBatchNorm",
    "Dense",
    "DenseBatchNorm",
    "Flatten",
    "GhostBatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "L1Normalize",
    "L1Penalty",
    "L2Normalize",
    "L2Penalty",
    "Layer",
    "Sequential",
    "merge_running_statistics",
    "update_statistics",
]
