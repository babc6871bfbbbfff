from nbnorm.kernels.activations import (
    ELU,
    GELU,
    SELU,
    HardSigmoid,
    HardSwish,
    LeakyReLU,
    Mish,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from nbnorm.kernels.batch_norm.fused import (
    backward_columns,
    backward_columns_parallel,
    backward_planes,
    backward_planes_parallel,
    forward_columns,
    forward_columns_parallel,
    forward_planes,
    forward_planes_parallel,
)
from nbnorm.kernels.batch_norm.gradients import (
    apply_columns,
    apply_columns_parallel,
    apply_planes,
    apply_planes_parallel,
    fold_gradient_slices,
    fold_statistics,
)
from nbnorm.kernels.batch_norm.moments import place_pivots, settle_blocks, settle_slices
from nbnorm.kernels.batch_norm.normalize import (
    fold_given,
    infer_columns,
    infer_planes,
    normalize_columns,
    normalize_columns_parallel,
    normalize_planes,
    normalize_planes_parallel,
)
from nbnorm.kernels.batch_norm.sums import (
    add_columns,
    add_columns_parallel,
    sum_columns,
    sum_columns_parallel,
    sum_planes,
    sum_planes_parallel,
)
from nbnorm.kernels.conv2d.depthwise import convolve as depthwise_convolve
from nbnorm.kernels.conv2d.depthwise import convolve_parallel as depthwise_convolve_parallel
from nbnorm.kernels.conv2d.depthwise import pack_weights as depthwise_pack_weights
from nbnorm.kernels.conv2d.depthwise import weight_gradient as depthwise_weight_gradient
from nbnorm.kernels.conv2d.depthwise import (
    weight_gradient_parallel as depthwise_weight_gradient_parallel,
)
from nbnorm.kernels.conv2d.direct import (
    collect_weights,
    collect_weights_parallel,
    convolve,
    convolve_parallel,
    pack_weights,
    pack_weights_parallel,
    weight_gradient,
    weight_gradient_parallel,
)
from nbnorm.kernels.conv2d.grouped import collect_weights as grouped_collect_weights
from nbnorm.kernels.conv2d.grouped import convolve as grouped_convolve
from nbnorm.kernels.conv2d.grouped import convolve_parallel as grouped_convolve_parallel
from nbnorm.kernels.conv2d.grouped import pack_weights as grouped_pack_weights
from nbnorm.kernels.conv2d.grouped import weight_gradient as grouped_weight_gradient
from nbnorm.kernels.conv2d.grouped import (
    weight_gradient_parallel as grouped_weight_gradient_parallel,
)
from nbnorm.kernels.conv2d.images import turn_images, turn_images_parallel
from nbnorm.kernels.conv2d.winograd import convolve as winograd_convolve
from nbnorm.kernels.conv2d.winograd import convolve_parallel as winograd_convolve_parallel
from nbnorm.kernels.conv2d.winograd import return_weights as winograd_return_weights
from nbnorm.kernels.conv2d.winograd import (
    return_weights_parallel as winograd_return_weights_parallel,
)
from nbnorm.kernels.conv2d.winograd import transform_weights as winograd_transform_weights
from nbnorm.kernels.conv2d.winograd import (
    transform_weights_parallel as winograd_transform_weights_parallel,
)
from nbnorm.kernels.conv2d.winograd import weight_gradient as winograd_weight_gradient
from nbnorm.kernels.conv2d.winograd import (
    weight_gradient_parallel as winograd_weight_gradient_parallel,
)
from nbnorm.kernels.gemm.epilogue import Epilogue
from nbnorm.kernels.gemm.gemm import (
    GemmBlocks,
    GemmWorkspace,
    Matrix,
    add_products,
    add_products_parallel,
    multiply,
    multiply_few,
    multiply_few_parallel,
    multiply_parallel,
)
from nbnorm.kernels.norms.divide import (
    NormTiling,
    NormWorkspace,
    Passes,
    add_parts,
    divide_by_norms,
    divide_by_norms_parallel,
)
from nbnorm.kernels.norms.kinds import L1, L2
from nbnorm.kernels.norms.penalties import penalize, penalize_parallel

__all__ = [
    "ELU",
    "GELU",
    "L1",
    "L2",
    "SELU",
    "Epilogue",
    "GemmBlocks",
    "GemmWorkspace",
    "HardSigmoid",
    "HardSwish",
    "LeakyReLU",
    "Matrix",
    "Mish",
    "NormTiling",
    "NormWorkspace",
    "Passes",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "add_columns",
    "add_columns_parallel",
    "add_parts",
    "add_products",
    "add_products_parallel",
    "apply_columns",
    "apply_columns_parallel",
    "apply_planes",
    "apply_planes_parallel",
    "backward_columns",
    "backward_columns_parallel",
    "backward_planes",
    "backward_planes_parallel",
    "collect_weights",
    "collect_weights_parallel",
    "convolve",
    "convolve_parallel",
    "depthwise_convolve",
    "depthwise_convolve_parallel",
    "depthwise_pack_weights",
    "depthwise_weight_gradient",
    "depthwise_weight_gradient_parallel",
    "divide_by_norms",
    "divide_by_norms_parallel",
    "fold_given",
    "fold_gradient_slices",
    "fold_statistics",
    "forward_columns",
    "forward_columns_parallel",
    "forward_planes",
    "forward_planes_parallel",
    "grouped_collect_weights",
    "grouped_convolve",
    "grouped_convolve_parallel",
    "grouped_pack_weights",
    "grouped_weight_gradient",
    "grouped_weight_gradient_parallel",
    "infer_columns",
    "infer_planes",
    "multiply",
    "multiply_few",
    "multiply_few_parallel",
    "multiply_parallel",
    "normalize_columns",
    "normalize_columns_parallel",
    "normalize_planes",
    "normalize_planes_parallel",
    "pack_weights",
    "pack_weights_parallel",
    "penalize",
    "penalize_parallel",
    "place_pivots",
    "settle_blocks",
    "settle_slices",
    "sum_columns",
    "sum_columns_parallel",
    "sum_planes",
    "sum_planes_parallel",
    "turn_images",
    "turn_images_parallel",
    "weight_gradient",
    "weight_gradient_parallel",
    "winograd_convolve",
    "winograd_convolve_parallel",
    "winograd_return_weights",
    "winograd_return_weights_parallel",
    "winograd_transform_weights",
    "winograd_transform_weights_parallel",
    "winograd_weight_gradient",
    "winograd_weight_gradient_parallel",
]
