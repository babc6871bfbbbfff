"""Whole networks, trained and run: PyTorch as it is beside PyTorch on nbnorm.

    python -m benchmarks.compare networks [NETWORK ...] [--ways ...] [--only ...]

Each way to run a network (ways/) has a process of its own and they take turns, as the libraries of
the other suites do. Losses of the first training steps, and outputs in evaluation, are compared
before anything is timed. Networks are measured one by one, and each is added to the results as soon
as it is finished.
"""
