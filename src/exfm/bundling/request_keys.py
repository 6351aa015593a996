"""Keys of requests, for counting and for replay.

Legend: R requests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from exfm.artifact.rows import Keys
from exfm.features.batch import NetBatches
from exfm.schema import Net, Schema

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RequestKeys:
    """Some requests; each sparse feature has one array of keys: request after request, row after row of its net."""

    arrival_ns: Integers
    """Nanoseconds since 1970-01-01 UTC; shape [R]."""
    num_rows: Mapping[Net, Integers]
    """Number of users and of candidates in each request; shape [R] each."""
    keys: Mapping[str, Keys]
    """Keys by sparse feature."""
    lengths: Mapping[str, Integers]
    """Number of keys in each row's bag, by sparse feature."""

    @classmethod
    def of(cls, batches: NetBatches, schema: Schema, *, arrival_ns: Integers, num_rows: Mapping[Net, Integers]) -> Self:
        """Return the requests whose users and candidates are in `batches`, in the same order."""
        bags = {feature.name: batches.of(feature.net).bags[feature.name] for feature in schema.sparse}
        return cls(
            arrival_ns=arrival_ns,
            num_rows=num_rows,
            keys={name: one.keys for name, one in bags.items()},
            lengths={name: one.lengths for name, one in bags.items()},
        )

    def __len__(self) -> int:
        """Return R."""
        return len(self.arrival_ns)
