"""The asv suites; asv.conf.json names this folder.

asv imports it as a package of its own, `suites`, by which benchmarks are named, in an environment
that knows no other folder of the repository. So the modules import each other by relative names,
and nothing else but nbnorm, NumPy, Numba and threadpoolctl.
"""
