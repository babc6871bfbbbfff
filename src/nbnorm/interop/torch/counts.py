"""What nbnorm was asked in this process, and what it left to PyTorch."""

from __future__ import annotations

from collections import Counter


class Counts:
    """Calls taken, by what they were, and calls left to PyTorch, by the reason."""

    def __init__(self) -> None:
        self.taken: Counter[str] = Counter()
        self.left: Counter[str] = Counter()


counts = Counts()
