"""Moments of Dask arrays, which may be larger than memory, and normalization by them.

Works on every scheduler. Nothing is computed here: what is returned is lazy.
"""

from nbnorm.interop.dask.arrays import moments, normalize

__all__ = ["moments", "normalize"]
