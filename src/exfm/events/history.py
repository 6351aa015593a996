"""What was known of a user when an impression was shown: only feedback that had arrived by then."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa


@dataclass(frozen=True)
class Arrivals:
    """Items that users gave feedback on, and when each feedback became known; shape [E] each."""

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    times: npt.NDArray[np.int64]


def histories(
    users: npt.NDArray[np.int64], times: npt.NDArray[np.int64], *, arrivals: Arrivals, max_length: int
) -> pl.Series:
    """Return, for impressions (one or more) of these users at these times, a list of items: the oldest first.

    A list has the user's last `max_length` items whose feedback arrived strictly before the impression's time;
    feedback that arrived at the same time is in the order of `arrivals`.
    """
    _, codes = np.unique(np.concatenate([users, arrivals.users]), return_inverse=True)
    all_times = np.concatenate([times, arrivals.times])
    first = all_times.min()
    span = int(all_times.max() - first) + 1
    moments = codes * span + (all_times - first)  # orders by user, then by time: 1M users x 30 years stay below 2**50
    shown, arrived = moments[: len(users)], moments[len(users) :]
    order = np.argsort(arrived, kind="stable")
    arrived = arrived[order]

    stop = np.searchsorted(arrived, shown, side="left")
    user_start = np.searchsorted(arrived, codes[: len(users)] * span, side="left")
    start = np.maximum(user_start, stop - max_length)
    offsets = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(stop - start, out=offsets[1:])
    position = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], stop - start)
    items = arrivals.items[order[position]]
    lists = pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(items, type=pa.int64())))
    assert isinstance(lists, pl.Series)
    return lists
