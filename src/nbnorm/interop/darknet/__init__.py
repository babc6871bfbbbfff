"""darknet's files: networks from a `.cfg` and a `.weights` file, for inference.

`load_network` gives a `Network` of this library's layers, with `forward`, `fold` and
`save_weights`. Read in this order: `cfg` (the text file), `steps` and `images` (what each of its
sections computes), `dialect` (in what the original and its fork differ), `weights` (the file of
numbers), `network`.
"""

from nbnorm.interop.darknet.network import Network, load_network
from nbnorm.interop.darknet.weights import Header

__all__ = ["Header", "Network", "load_network"]
