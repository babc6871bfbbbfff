"""How many threads kernels run on, and how they do: the user's say, and what came of it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from nbnorm.checks import is_int, wrong_type, wrong_value
from nbnorm.jit import threads as _threads
from nbnorm.jit.threads import Threading


def threads(number: int) -> AbstractContextManager[None]:
    """Runs kernels on so many threads within a ``with`` block.

    That holds for calls of the thread that enters the block, whatever PyTorch's number of threads
    (in `nbnorm.interop.torch`) or ``numba.set_num_threads`` say. Other threads without a number of
    their own, such as those of a pool that is started in the block, meanwhile have no more, and
    neither have the processes that they fork. ``NUMBA_NUM_THREADS`` is the most in any case.

    Results are the same bits with any number.

    Parameters
    ----------
    number : int
        1 or more; `one_thread` is for 1.

    Raises
    ------
    TypeError
        The number is no int.
    ValueError
        It is less than 1.

    Examples
    --------
    >>> import nbnorm
    >>> with nbnorm.threads(1):
    ...     nbnorm.threading().threads
    1
    """
    if not is_int(number):
        raise wrong_type("threads", "number", number, "an int of 1 or more")
    if number < 1:
        raise wrong_value("threads", "number", number, "an int of 1 or more")
    return _threads.limited(int(number))


def one_thread() -> AbstractContextManager[None]:
    """Runs kernels on the calling thread alone within a ``with`` block: see `threads`.

    For programs that have a thread or a process for each processor themselves.
    """
    return _threads.one_thread()


def threading() -> Threading:
    """Tells how kernels run in parallel in this process, and starts nothing for it.

    Returns
    -------
    Threading
        layer, reason and threads: the threading layer of Numba that is in use, why it is that one
        (docs/threads.md has the order), and how many threads a large kernel has that is called now.
    """
    return _threads.status()
