"""Key to row, and the key range that a run of rows owns.

A key's row is floor(key * rows / 2**64). It grows with the key, so consecutive rows are
owned by one range of keys: a table split by rows is split by keys, and which slice owns a key needs no table.
"""

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

_LOW_32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def rows_of_keys(keys: Keys, num_rows: int | Keys) -> Rows:
    """Return the row of each key in a hashed table of `num_rows` rows (1 to 2**32), one number or one a key."""
    # The upper half of a 64 x 32 bit product, in two 32 x 32 bit ones: neither can overflow.
    rows = np.uint64(num_rows)
    upper = keys >> _32
    upper *= rows
    lower = keys & _LOW_32
    lower *= rows
    lower >>= _32
    upper += lower
    upper >>= _32
    return upper.view(np.int64)


def first_key_of_row(row: int, num_rows: int) -> int:
    """Return the smallest key that falls on `row`, or 2**64 for `row` = `num_rows`."""
    return -(-(row << 64) // num_rows)
