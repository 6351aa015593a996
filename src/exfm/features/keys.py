"""Ids to 64-bit keys.

An integer's key is SplitMix64's first output for it as the seed; a string's is XXH3-64 (seed 0) of its UTF-8 bytes.
docs/contracts.md gives known answers, so that every client in every language agrees.
Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (doi:10.1145/2660193.2660195).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xxhash

from exfm.artifact.rows import Keys


def keys_of_integers(ids: npt.NDArray[np.int64]) -> Keys:
    """Return the key of each id; shape of `ids`. Negative ids count as their two's complement."""
    z = ids.astype(np.int64, copy=False).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def keys_of_strings(ids: Sequence[str | bytes]) -> Keys:
    """Return the key of each id; bytes are taken as the UTF-8 of a string."""
    encoded = (value.encode() if isinstance(value, str) else value for value in ids)
    return np.fromiter((xxhash.xxh3_64_intdigest(value) for value in encoded), dtype=np.uint64, count=len(ids))
