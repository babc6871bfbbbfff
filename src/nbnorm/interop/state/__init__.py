"""Parameters and statistics in the names, shapes and conventions of other frameworks.

`export_state` and `import_state` carry the arrays of batch norms, dense layers and convolutions
over, as dicts of NumPy arrays; `export_options` and `import_options` the options of a batch norm.
No framework is imported: they take and give what each framework's own functions give and take.

=============  =================================================================================
framework      a dict of arrays, from and to the framework
=============  =================================================================================
"pytorch"      ``module.state_dict()``: ``{"bn.weight": ...}``
"keras"        Keras 3: ``{v.path: v.numpy() for v in model.weights}``: ``{"bn/gamma": ...}``;
               Keras 2: ``v.name``, with ``:0`` behind. The model's name in front may be left out
"flax_linen"   the variables: ``{"params": {"bn": {"scale": ...}}, "batch_stats": {...}}``
"flax_nnx"     ``nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))``:
               ``{"bn": {"scale": ...}}``
"onnx"         initializers by the name of the node's input: ``{"bn.scale": ...}``; a Gemm with
               ``transB=1``, a Conv, a BatchNormalization (``mean`` and ``var`` before opset 14)
=============  =================================================================================

What they mean by the same words:

=============  ==================  =============  ==================  ========================
               momentum weighs     default eps    running variance    weights, dense and conv
=============  ==================  =============  ==================  ========================
nbnorm         the new batch: 0.1  1e-5           unbiased or biased  (k, c), (k, c, r, s)
"pytorch"      the new batch: 0.1  1e-5           unbiased            (k, c), (k, c, r, s)
"keras"        the old: 0.99       1e-3           biased              (c, k), (r, s, c, k)
"flax_..."     the old: 0.99       1e-5           biased              (c, k), (r, s, c, k)
"onnx"         the old: 0.9        1e-5           biased              (k, c), (k, c, r, s)
=============  ==================  =============  ==================  ========================

c is that of a group. Of Keras's depthwise layers, kernels (r, s, c, multiplier) are read as well;
exported ones are those of a Conv2D in groups, which ``reshape(r, s, c, multiplier)`` turns into
them. A SeparableConv2D is two layers of one name, a depthwise one without bias and a pointwise one.

A running variance is carried over as it is: that one framework divides by m and the other by m - 1
concerns what later batches add to it. A negative one, as some old files have between -eps and 0, is
refused here and everywhere else: load ``np.maximum(var, 0)`` in its place. The rows of a dense
layer behind a `Flatten` count pixels in the order of the layout; it has to be the same on both
sides.

Sources: ``torch.nn.BatchNorm2d``, ``keras.layers.BatchNormalization``, ``flax.linen.BatchNorm``,
``flax.nnx.BatchNorm`` and ONNX's ``BatchNormalization`` (opset 15); the tests compare with each.
"""

from nbnorm.interop.state.arrays import export_state, import_state
from nbnorm.interop.state.options import export_options, import_options

__all__ = ["export_options", "export_state", "import_options", "import_state"]
