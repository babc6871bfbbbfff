"""PyTorch's batch norms on nbnorm: training and inference of whole networks, on CPUs.

Two doors::

    import nbnorm.interop.torch as nbt

    nbt.enable()                     # every batch norm from here on; no model is touched
    model = nbt.convert(model)       # convolution, norm, residual and activation fused

`enable`, `disable`, `enabled`, `is_enabled` and `status` switch PyTorch's own operators over;
`convert`, `revert` and `report` are about one model. `SyncBatchNorm` and `convert_sync_batchnorm`
are batch norms over several processes. docs/pytorch.md says what is taken, what is left to PyTorch
and how both share their threads.

Importing this package imports PyTorch, which nothing else in nbnorm does: ``pip install
nbnorm[torch]``.
"""

from nbnorm.interop.torch.conversion import convert, report, revert
from nbnorm.interop.torch.override import Status, disable, enable, enabled, is_enabled, status
from nbnorm.interop.torch.patterns import Entry
from nbnorm.interop.torch.synchronized import SyncBatchNorm, convert_sync_batchnorm

__all__ = [
    "Entry",
    "Status",
    "SyncBatchNorm",
    "convert",
    "convert_sync_batchnorm",
    "disable",
    "enable",
    "enabled",
    "is_enabled",
    "report",
    "revert",
    "status",
]
