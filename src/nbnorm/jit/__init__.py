"""What makes compiled code possible: options, cache, signals, vectors, threads.

The only package that knows Numba's options and the only one that reads environment variables.
"""

# First of all: it notes the state of the source files before those with compiled code are read.
import nbnorm.jit.cache  # noqa: F401
