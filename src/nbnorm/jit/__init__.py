"""What makes compiled code possible: compiler options, the cache, vectors, threads.

The only package that knows Numba's options and the only one that reads environment variables.
"""
