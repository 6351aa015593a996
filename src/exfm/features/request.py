"""Raw columns from the tensors of a request (Open Inference Protocol): the online way in.

User features have leading U (users, 1 unless num_candidates says otherwise), item features N (items of all users, one
user after another). A bag or sequence is two tensors: `<feature>`, all ids, and `<feature>.lengths`, ids of each row.
A single id may be missing; then it too comes with lengths, of 0 and 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from exfm.errors import RequestError
from exfm.features.batch import NetBatches, RawColumns, RawIds, encode
from exfm.features.oip import LENGTHS_SUFFIX, Datatype, Tensor, datatype_of_ids
from exfm.schema import NETS, NUM_CANDIDATES, Net, Schema, SparseFeature


@dataclass(frozen=True)
class InputSpec:
    """An input that a model takes."""

    name: str
    datatype: Datatype
    required: bool


def input_specs(schema: Schema) -> tuple[InputSpec, ...]:
    """Return the inputs of a model with this schema; each has one dimension of free length."""
    specs = []
    for net in NETS:
        specs += [InputSpec(feature.name, "FP32", True) for feature in schema.dense_of(net)]
        for feature in schema.sparse_of(net):
            specs.append(InputSpec(feature.name, datatype_of_ids(feature), True))
            specs.append(InputSpec(feature.name + LENGTHS_SUFFIX, "INT32", feature.kind != "single"))
    specs.append(InputSpec(NUM_CANDIDATES, "INT32", False))
    return tuple(specs)


@dataclass(frozen=True)
class RawRequest:
    """A request's features as they came."""

    columns: Mapping[Net, RawColumns]
    num_candidates: npt.NDArray[np.int64]
    """Items of each user, in order; sums to the items."""


class RequestEncoder:
    """Makes a model's inputs from requests' tensors."""

    def __init__(self, schema: Schema) -> None:
        """Encode for models with this schema."""
        self._schema = schema
        self._specs = {spec.name: spec for spec in input_specs(schema)}
        self._required = [spec.name for spec in self._specs.values() if spec.required]

    def encode(self, tensors: Mapping[str, Tensor]) -> NetBatches:
        """Return a model's inputs from a request's tensors.

        Raises: RequestError, which names the input, what was found and what was expected; DataError as `encode`.
        """
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, self._specs)
        missing = [name for name in self._required if name not in tensors]
        if missing:
            names = ", ".join(map(repr, missing))
            raise RequestError(f"input {names} is missing; the model's inputs are {', '.join(self._specs)}")
        raw = raw_request(tensors, self._schema)
        return encode(raw.columns, self._schema, num_candidates=raw.num_candidates)


def encode_request(tensors: Mapping[str, Tensor], schema: Schema) -> NetBatches:
    """Return a model's inputs from one request's tensors; raises as RequestEncoder's `encode`."""
    return RequestEncoder(schema).encode(tensors)


def raw_request(tensors: Mapping[str, Tensor], schema: Schema) -> RawRequest:
    """Return the features in a request's tensors, of which each that the schema requires is there, with its datatype.

    Raises: RequestError if they do not add up.
    """
    raw: dict[Net, RawColumns] = {net: _columns_of_net(tensors, schema, net) for net in NETS}
    num_users, num_items = raw["user"].num_rows, raw["item"].num_rows
    if NUM_CANDIDATES in tensors:
        num_candidates = tensors[NUM_CANDIDATES].values.astype(np.int64)
    else:
        num_candidates = np.array([num_items], dtype=np.int64)
    if len(num_candidates) != num_users:
        raise RequestError(
            f"the user inputs have {num_users} rows, but {NUM_CANDIDATES} has {len(num_candidates)} "
            "(without it there is one user)"
        )
    # No single number may exceed the sum: int64 would wrap around, and a false sum could match.
    if ((num_candidates < 0) | (num_candidates > num_items)).any() or num_candidates.sum() != num_items:
        raise RequestError(
            f"{NUM_CANDIDATES} sums to {num_candidates.sum()} (least {num_candidates.min(initial=0)}), "
            f"but the item inputs have {num_items} rows"
        )
    return RawRequest(columns=raw, num_candidates=num_candidates)


def _check_tensor(name: str, tensor: Tensor, specs: Mapping[str, InputSpec]) -> None:
    spec = specs.get(name)
    if spec is None:
        raise RequestError(f"unknown input {name!r}; the model's inputs are {', '.join(specs)}")
    is_count = name == NUM_CANDIDATES or name.endswith(LENGTHS_SUFFIX)
    allowed = ("INT32", "INT64") if is_count else (spec.datatype,)
    if tensor.datatype not in allowed:
        raise RequestError(f"input {name!r} has datatype {tensor.datatype}, expected {' or '.join(allowed)}")
    if tensor.values.ndim != 1:
        raise RequestError(f"input {name!r} has shape {list(tensor.values.shape)}, expected one dimension")


def _columns_of_net(tensors: Mapping[str, Tensor], schema: Schema, net: Net) -> RawColumns:
    sparse = {feature.name: _raw_ids(tensors, feature) for feature in schema.sparse_of(net)}
    dense = {feature.name: tensors[feature.name].values for feature in schema.dense_of(net)}
    lengths = {name: len(values) for name, values in dense.items()} | {
        name: len(ids.lengths) for name, ids in sparse.items()
    }
    if len(set(lengths.values())) > 1:
        raise RequestError(f"the {net} inputs differ in rows: {', '.join(f'{k} {v}' for k, v in lengths.items())}")
    num_rows = next(iter(lengths.values()), _rows_without_features(tensors, net))
    return RawColumns(num_rows=num_rows, dense=dense, sparse=sparse)


def _rows_without_features(tensors: Mapping[str, Tensor], net: Net) -> int:
    """Return the rows of a net that has no feature: known only from num_candidates."""
    if NUM_CANDIDATES not in tensors:
        return 1
    counts = tensors[NUM_CANDIDATES].values
    return len(counts) if net == "user" else int(counts.sum())


def _raw_ids(tensors: Mapping[str, Tensor], feature: SparseFeature) -> RawIds:
    values = tensors[feature.name].values
    lengths_tensor = tensors.get(feature.name + LENGTHS_SUFFIX)
    if lengths_tensor is None:
        return RawIds(values=values, lengths=np.ones(len(values), dtype=np.int64))
    lengths = lengths_tensor.values.astype(np.int64)
    least, longest = lengths.min(initial=0), lengths.max(initial=0)
    if least < 0:
        raise RequestError(f"input {feature.name + LENGTHS_SUFFIX!r} has a negative length, {least}")
    if longest > len(values) or lengths.sum() != len(values):  # int64 sums wrap around
        name = feature.name + LENGTHS_SUFFIX
        raise RequestError(f"input {name!r} sums to {lengths.sum()}, but {feature.name!r} has {len(values)} ids")
    if feature.kind == "single" and longest > 1:
        raise RequestError(f"input {feature.name!r} is single, but a row has {longest} ids; at most 1")
    return RawIds(values=values, lengths=lengths)
