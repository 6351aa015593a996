"""A batch of encoded examples, and how raw columns become one.

Legend: B rows, D dense features, F sparse features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from exfm.artifact.rows import Keys
from exfm.errors import DataError
from exfm.features.faults import Fault
from exfm.features.keys import keys_of_integers, keys_of_strings
from exfm.schema import NETS, DenseFeature, Net, Schema, SparseFeature


@dataclass(frozen=True)
class RawIds:
    """One sparse feature as it comes: distinct or repeated ids, and which of them each row has."""

    values: npt.NDArray[Any]
    """Ids: int64, or objects that are str or bytes."""
    lengths: npt.NDArray[np.int64]
    """Ids of each row; shape [B]."""
    codes: npt.NDArray[np.int64] | None = None
    """Positions in `values`, one for each id of each row; None: `values` has them in order already."""


@dataclass(frozen=True)
class RawColumns:
    """Features as they come, whole columns each."""

    num_rows: int
    dense: Mapping[str, npt.NDArray[np.float32]]
    """Shape [B] each; NaN where a value is missing."""
    sparse: Mapping[str, RawIds]


@dataclass(frozen=True)
class Bags:
    """One sparse feature's keys, row after row."""

    keys: Keys
    offsets: npt.NDArray[np.int64]
    """Where each row's keys start, and where the last ends; shape [B + 1]."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Return the number of keys of each row; shape [B]."""
        return np.diff(self.offsets)

    def rows(self, start: int, stop: int) -> "Bags":
        """Return the bags of rows `start` to `stop`, without copying a key."""
        offsets = self.offsets[start : stop + 1]
        return Bags(keys=self.keys[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])


@dataclass(frozen=True)
class Batch:
    """One net's encoded features."""

    num_rows: int
    dense_BD: npt.NDArray[np.float32]
    """Normalised; columns in the schema's order."""
    bags: Mapping[str, Bags]
    """Bags of each feature, in the schema's order."""

    def rows(self, start: int, stop: int) -> "Batch":
        """Return rows `start` to `stop`, without copying a key."""
        return Batch(
            num_rows=stop - start,
            dense_BD=self.dense_BD[start:stop],
            bags={name: bags.rows(start, stop) for name, bags in self.bags.items()},
        )


@dataclass(frozen=True)
class NetBatches:
    """Examples to score: users, the items ranked for them, and which items belong to which user."""

    user: Batch
    item: Batch
    num_candidates: npt.NDArray[np.int64]
    """Items of each user, in order; sums to the items. In training every example has a user and an item of its own."""

    def of(self, net: Net) -> Batch:
        """Return one net's batch."""
        return self.user if net == "user" else self.item

    def rows(self, start: int, stop: int) -> "NetBatches":
        """Return examples `start` to `stop` of a batch in which each user has one item."""
        return NetBatches(
            user=self.user.rows(start, stop),
            item=self.item.rows(start, stop),
            num_candidates=self.num_candidates[start:stop],
        )


def encode(raw: Mapping[Net, RawColumns], schema: Schema, *, num_candidates: npt.NDArray[np.int64]) -> NetBatches:
    """Return a model's inputs from raw columns: ids hashed and truncated, numbers normalised.

    Raises: DataError if a dense value is missing whose feature refuses that, lies outside its transform or is infinite.
    """
    user, item = (_encode_net(raw[net], schema.dense_of(net), schema.sparse_of(net)) for net in NETS)
    return NetBatches(user=user, item=item, num_candidates=num_candidates)


def encode_examples(raw: RawColumns, schema: Schema) -> NetBatches:
    """Return a model's inputs from columns that hold one user and one item in every row.

    Raises: DataError, as `encode`.
    """
    return encode(dict.fromkeys(NETS, raw), schema, num_candidates=np.ones(raw.num_rows, dtype=np.int64))


def _encode_net(raw: RawColumns, dense: Sequence[DenseFeature], sparse: Sequence[SparseFeature]) -> Batch:
    dense_BD = np.empty((raw.num_rows, len(dense)), dtype=np.float32)
    for column, feature in enumerate(dense):
        dense_BD[:, column] = _require_normalised(raw.dense[feature.name], feature)
    keys = _hash(raw, sparse)
    bags = {feature.name: _bags(keys[feature.name], raw.sparse[feature.name], feature) for feature in sparse}
    return Batch(num_rows=raw.num_rows, dense_BD=dense_BD, bags=bags)


def dense_faults(values_B: npt.NDArray[np.float32], feature: DenseFeature) -> Iterator[Fault]:
    """Yield what is wrong with the values that `encode` refuses of a dense feature."""
    refused_B = ~np.isfinite(_normalised(values_B, feature))
    is_missing_B = np.isnan(values_B)
    expected = "a number, or `missing: mean` in the schema"
    yield Fault(feature.name, "missing", expected, refused_B & is_missing_B)
    is_negative_B = (values_B < 0) & (feature.normalisation.transform == "log1p")
    yield Fault(feature.name, "less than 0", "0 or more, as log1p needs", refused_B & is_negative_B)
    expected = "a finite number as float32, also once normalised"
    yield Fault(feature.name, "not finite", expected, refused_B & ~is_missing_B & ~is_negative_B)


def _normalised(values_B: npt.NDArray[np.float32], feature: DenseFeature) -> npt.NDArray[np.float32]:
    """Return what a model sees of a dense feature's values; NaN or an infinity where a value is to be refused."""
    rule = feature.normalisation
    seen_B = values_B
    if rule.transform == "log1p":
        seen_B = np.log1p(np.where(values_B < 0, np.float32(np.nan), values_B))
    with np.errstate(over="ignore"):
        seen_B = (seen_B - np.float32(rule.mean)) / np.float32(rule.std)
    return np.where(np.isnan(values_B), np.float32(0), seen_B) if feature.missing == "mean" else seen_B


def _require_normalised(values_B: npt.NDArray[np.float32], feature: DenseFeature) -> npt.NDArray[np.float32]:
    normalised_B = _normalised(values_B, feature)
    if not np.isfinite(normalised_B).all():
        fault = next(fault for fault in dense_faults(values_B, feature) if fault.rows_B.any())
        row = int(fault.rows_B.argmax())
        raise DataError(
            f"feature {feature.name!r}: row {row} is {values_B[row]} ({fault.found}), expected {fault.expected}"
        )
    return normalised_B


def _hash(raw: RawColumns, sparse: Sequence[SparseFeature]) -> dict[str, Keys]:
    """Return the keys of each feature's values.

    Integers are hashed all at once: of a request with hundreds of features, most of whose bags are short, calls are
    what takes time.
    """
    keys = {
        feature.name: keys_of_strings(raw.sparse[feature.name].values.tolist())
        for feature in sparse
        if feature.id_type == "string"
    }
    integers = {feature.name: raw.sparse[feature.name].values for feature in sparse if feature.id_type == "int64"}
    of_all = keys_of_integers(np.concatenate([np.empty(0, dtype=np.int64), *integers.values()]))
    end = 0
    for name, values in integers.items():
        start, end = end, end + len(values)
        keys[name] = of_all[start:end]
    return keys


def _bags(keys: Keys, raw: RawIds, feature: SparseFeature) -> Bags:
    offsets = np.zeros(len(raw.lengths) + 1, dtype=np.int64)
    raw.lengths.cumsum(out=offsets[1:])
    bags = Bags(keys=keys if raw.codes is None else keys[raw.codes], offsets=offsets)
    limit = 1 if feature.kind == "single" else feature.max_length
    return bags if raw.lengths.max(initial=0) <= limit else _truncate(bags, feature, limit=limit)


def _truncate(bags: Bags, feature: SparseFeature, *, limit: int) -> Bags:
    lengths_B = bags.lengths
    position = np.arange(len(bags.keys)) - np.repeat(bags.offsets[:-1], lengths_B)
    if feature.kind == "sequence":  # keeps the latest
        kept = position >= np.repeat(lengths_B - limit, lengths_B)
    else:
        kept = position < limit
    offsets = np.zeros_like(bags.offsets)
    np.cumsum(np.minimum(lengths_B, limit), out=offsets[1:])
    return Bags(keys=bags.keys[kept], offsets=offsets)
