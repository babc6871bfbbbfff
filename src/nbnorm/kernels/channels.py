"""How kernels see an array: as *planes* or as *columns*.

Every input is an array (n, c, s): n samples of c channels of s contiguous values; channels-last is
s = 1. A channel has m = n s values. A kernel works through the array in one of two ways:

planes
    Channel by channel: a plane, the s values of one channel in one sample, is swept along its
    length by a vector. For s of some hundreds and more.

columns
    Row by row: a row is `copies` samples end to end, and each of its copies * c * s columns is
    summed down the rows in a lane of its own. Joining samples fills whole vectors where c is small
    or odd: with c = 3 and 64 copies, 192 columns are three vectors. For channels-last, and for
    planes so short that they would leave most of a vector empty. Samples beyond the last whole
    row make a row that is cut short.

Per-channel numbers reach a kernel in the array `constants` (rows, ld): a number for each plane's
channel, or for each column, which a kernel then loads as vectors. Its leading dimension `ld` is c,
or the columns rounded up to whole vectors. Where columns are not channels, the channels' numbers
are worked out in an array `folded` (rows, c) and then broadcast to the columns in `constants`;
elsewhere the two are one array.

`spans` = (span, copies, period) says which columns are a channel's: `span` neighbours in each of
`copies` samples, `period` columns apart. (1, 1, 0) is the channel itself.
"""

from __future__ import annotations

from nbnorm.jit.options import inlined

# Rows of `constants`: y = (x - head) scale + shift, and those of the gradients (gradients.py).
HEAD, SCALE, SHIFT = range(3)
DY_SCALE, INV_STD, XH_SCALE, OFFSET = range(3, 7)

# Rows down which the sums of one vector of columns stay in registers: with 16, carrying them to
# float64 costs a third of summing them, which memory hides; with 8 it showed.
SUMMED_ROWS = 16


@inlined
def written_rows(x, row_length):
    """Rows down which a vector of constants stays in registers while an output is written.

    Many of them where rows are short; few where they are long, as stores to many pages at once are
    slow: rows of 8 KB were written 1.4 times faster 4 by 4 than 16 by 16.
    """
    return max(4, min(16, (16 << 10) // (row_length * x.itemsize)))


@inlined
def broadcast_channels(constants, folded, first_row, last_row, spans):
    """Writes the channels' numbers, some rows of `folded`, to all columns of each channel."""
    span, copies, period = spans
    if span == 1 and copies == 1:  # then they are one array
        return
    for row in range(first_row, last_row):
        for copy in range(copies):
            j = copy * period
            for channel in range(folded.shape[1]):
                for _ in range(span):
                    constants[row, j] = folded[row, channel]
                    j += 1


@inlined
def reduce_channels(sums, c, spans):
    """Adds up the columns of each channel: the sum of channel k comes to stand in column k."""
    span, copies, period = spans
    if span == 1 and copies == 1:
        return
    for i in range(2):
        for channel in range(c):  # column `channel` has been added up already, or is now
            result = 0.0
            for copy in range(copies):
                first = copy * period + channel * span
                for j in range(first, first + span):
                    result += sums[i, j]
            sums[i, channel] = result
