"""darknet's files: networks from a `.cfg` and a `.weights` file, for inference.

`load_network` gives a `Network` of this library's layers, with `forward`, `fold` and
`save_weights`. Read in this order: `cfg` (the text file), `dialect` and `origin` (in what the
original and its fork differ, and which of them a file is for), `sections` (what reads each section;
from there a file for each family of them), `steps` (what they have in common), `weights` (the file
of numbers), `network` and `loading`; then `boxes`, `pictures` and `command`.
"""

from nbnorm.interop.darknet.boxes import Box, find_boxes
from nbnorm.interop.darknet.loading import load_network
from nbnorm.interop.darknet.network import Network
from nbnorm.interop.darknet.weights import Header

__all__ = ["Box", "Header", "Network", "find_boxes", "load_network"]
