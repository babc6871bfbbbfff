"""Weights as NumPyNet has them: one flat list, layer after layer.

`export_weights` and `import_weights` give and take the list of its ``save_weights`` methods;
`save_weights` and `load_weights` write and read its files: three integers, the version 1 0 0, and
the list as float64. No NumPyNet is imported.

=========================  =====================================================================
a layer here               its part of the list
=========================  =====================================================================
`Dense`                    bias (k), weights (c, k)
`Conv2d` with ``axis=-1``  bias (k), weights (r, s, c, k)
`BatchNorm`                bias (beta), scales (gamma), each in the shape of the layer's
`DenseBatchNorm`           the first and then the third
=========================  =====================================================================

A bias, gamma or beta that a layer lacks is written as 0, 1 or 0, and has to be that when read.

NumPyNet normalizes each activation over the batch, in inference too: its batch norm of images
(w, h, c) is ``BatchNorm((w, h, c), axis=(1, 2, 3), eps=1e-8, track_running_stats=False)``, and
behind a dense layer ``BatchNorm(c, ...)``. There are no running statistics in the list; a layer
keeps its own. NumPyNet itself cannot read the batch norms of its own files unless its batch is 1:
docs/lineage.md.
"""

from nbnorm.interop.numpynet.files import load_weights, save_weights
from nbnorm.interop.numpynet.weights import export_weights, import_weights

__all__ = ["export_weights", "import_weights", "load_weights", "save_weights"]
