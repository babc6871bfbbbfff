"""nbnorm beside other libraries, on the same data, in the same run.

    python -m benchmarks.compare all                   every suite; tables, JSON, picture
    python -m benchmarks.compare all --quick           a few shapes, three rounds
    python -m benchmarks.compare batch_norm            one suite: batch norm alone
    python -m benchmarks.compare dense_batch_norm      dense layer, batch norm and ReLU
    python -m benchmarks.compare conv2d_batch_norm     convolution, batch norm and ReLU; memory
    python -m benchmarks.compare normalize             L1, L2; batch norm per activation
    python -m benchmarks.compare networks              whole networks in PyTorch (`networks/`)
    python -m benchmarks.compare all --isa avx2        every library held to AVX2
    python -m benchmarks.compare readme                the stored run's tables into README and docs

A whole suite's figures take the place of its part of `../results/comparison.json`, and the picture
beside it is drawn anew; less than a whole suite goes to `partial.json`, which git ignores, and what
every library is held to by ``--isa`` (`../tools/isa.py`) has a file of its name. A run that is
stopped goes on where it was when the same command is given again, unless the machine, a version or
a source has changed since (`journal.py`).

How it is measured
    Each library has a process of its own (`workers.py`), with its own threads and environment. The
    parent gives them the turn one after the other, round after round (`runner.py`), and a process
    that has not the turn is stopped by the system, so a thread pool that spins while it waits takes
    no core from the others. A turn is a batch of calls, its figure their median; a library's figure
    is the median of its rounds, of which more are taken where they disagree. Nothing is timed but
    the call: data is in the library's own arrays beforehand, and results are released after the
    clock was read.

    Outputs are compared with float64 first (`../accuracy/truth.py`). A library that is not
    installed, that cannot do a case, or that gets it wrong is named in the report.

Where things are
    A suite (`suites/`) says what is measured: shapes, operations, data, truth, targets.
    A peer (`peers/`) says how one library is called: one class, one method for each operation.
    A further suite is one more module listed in `SUITES`, methods of its name on the peers, and a
    place in docs/speed.md and in benchmarks/README.md (`readme.py`).
"""
