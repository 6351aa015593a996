"""Raw columns from an Arrow table: the offline way in, for the trainer's reader and the DAS scorer."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from exfm.errors import DataError
from exfm.features.batch import RawColumns, RawIds, dense_faults
from exfm.features.faults import Fault
from exfm.schema import NETS, DenseFeature, Net, Schema, SparseFeature

AS_TEXT = "declare id_type string in the schema"
"""What else to do about ids that are no int64, once they are text."""


def raw_columns(table: pa.Table, schema: Schema, *, nets: Sequence[Net] = NETS) -> RawColumns:
    """Return the features of these nets from a table with one example a row.

    Nulls are missing values: NaN for a dense feature, no id for a sparse one.

    Raises: DataError if a column is missing, or is of a type that its feature cannot take.
    """
    for name in schema.feature_names(nets):
        require_column(table.column_names, name)
    return RawColumns(
        num_rows=table.num_rows,
        dense={feature.name: _numbers(table, feature.name) for net in nets for feature in schema.dense_of(net)},
        sparse={feature.name: _ids(table, feature) for net in nets for feature in schema.sparse_of(net)},
    )


def feature_faults(table: pa.Table, feature: DenseFeature | SparseFeature) -> Iterator[Fault]:
    """Yield what is wrong with the rows that cannot be read and encoded, by one feature.

    Raises: DataError if the column is of a type that the feature cannot take.
    """
    if isinstance(feature, DenseFeature):
        yield from dense_faults(_numbers(table, feature.name), feature)
        return
    ids, lengths_B = _flat_ids(table, feature)
    yield Fault(feature.name, "null inside a list", "ids only", _rows_of_ids(ids.is_null(), lengths_B))
    if pa.types.is_uint64(ids.type):
        is_beyond = pc.fill_null(pc.greater(ids, pa.scalar(2**63 - 1, ids.type)), False)
        expected = f"ids below 2**63, or text and {AS_TEXT}"
        yield Fault(feature.name, "beyond int64", expected, _rows_of_ids(is_beyond, lengths_B))


def _rows_of_ids(is_chosen: pa.Array, lengths_B: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which rows have a chosen id."""
    rows_B = np.zeros(len(lengths_B), dtype=np.bool_)
    places = np.flatnonzero(is_chosen.to_numpy(zero_copy_only=False))
    rows_B[np.searchsorted(lengths_B.cumsum(), places, side="right")] = True
    return rows_B


def require_column(columns: Sequence[str], name: str) -> None:
    """Check that a column is there.

    Raises: DataError, which names the column and those that are there.
    """
    if name not in columns:
        raise DataError(f"column {name!r} is missing; the columns are {', '.join(columns)}")


def _numbers(table: pa.Table, name: str) -> npt.NDArray[np.float32]:
    column = table.column(name)
    if pa.types.is_null(column.type):
        raise DataError(_no_type(name, wanted="a number"))
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(
            f"column {name!r} is {column.type}; a dense feature needs an integer or floating type; convert it"
        )
    numbers: npt.NDArray[np.float32] = column.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    return numbers


def _ids(table: pa.Table, feature: SparseFeature) -> RawIds:
    ids, lengths = _flat_ids(table, feature)
    if ids.null_count:
        raise DataError(f"column {feature.name!r} has {ids.null_count} nulls inside its lists; remove them")
    if feature.id_type == "int64":
        try:
            return RawIds(values=ids.cast(pa.int64()).to_numpy(zero_copy_only=False), lengths=lengths)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"column {feature.name!r} holds an id beyond int64: {pc.max(ids)}; give ids below {2**63}, or write "
                f"them as text and {AS_TEXT}"
            ) from error
    coded = ids.cast(pa.large_string()).dictionary_encode()
    return RawIds(
        values=np.array(coded.dictionary.to_pylist(), dtype=object),
        lengths=lengths,
        codes=coded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
    )


def _flat_ids(table: pa.Table, feature: SparseFeature) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Return a column's ids, row after row, with the nulls inside lists, and how many each row has."""
    column = table.column(feature.name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # no chunk at all
        column = pa.array([], type=column.type)
    column = _plain(column)
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if is_list != (feature.kind != "single"):
        wanted = "one id a row" if feature.kind == "single" else "a list of ids a row"
        raise DataError(
            f"column {feature.name!r} is {_called(column.type)}; a {feature.kind} feature needs {wanted}; convert it"
        )
    if is_list:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        ids = _plain(column.flatten())  # skips null lists
    else:
        lengths = column.is_valid().to_numpy(zero_copy_only=False)
        ids = column.drop_null()
    if feature.id_type == "int64":
        is_right = pa.types.is_integer(ids.type)
    else:
        is_right = pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)
    if not is_right:
        raise DataError(_other_ids(feature, ids))
    return ids, lengths.astype(np.int64)


def _other_ids(feature: SparseFeature, ids: pa.Array) -> str:
    if pa.types.is_null(ids.type):
        return _no_type(feature.name, wanted=feature.id_type)
    return (
        f"column {feature.name!r} has ids of type {_called(ids.type)}, expected {feature.id_type}; convert them, or "
        "declare the other id_type in the schema"
    )


def _called(type_: pa.DataType) -> str:
    return str(type_).removeprefix("large_")


def _no_type(name: str, *, wanted: str) -> str:
    return (
        f"column {name!r} has no value in any row, and so no type; write it as {wanted}, or leave the feature out "
        "of the schema"
    )


def _plain(array: pa.Array) -> pa.Array:
    """Return an array with its values in place, as a type that every Arrow function takes."""
    if pa.types.is_dictionary(array.type):  # which may hold a null that its indices do not show
        array = array.dictionary_decode()
    return array.cast(pa.large_string()) if array.type == pa.string_view() else array
