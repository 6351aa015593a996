"""The protocol's raw form of tensors, in gRPC messages and in the binary extension of REST.

Numbers are little-endian and row-major; a BYTES element is its length (4 bytes, little-endian) and its bytes.
"""

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exfm.errors import RequestError
from exfm.features.oip import Tensor

NUMBER_TYPES = {datatype: np.dtype(name) for datatype, name in {
    "BOOL": "?", "UINT8": "<u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "<i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}.items()}  # fmt: skip
"""NumPy's type of each datatype except BYTES."""

_DATATYPES = {dtype: datatype for datatype, dtype in NUMBER_TYPES.items()}

MAX_DIMENSIONS = 2

_LENGTH = struct.Struct("<I")


def tensor_from_bytes(name: str, *, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """Return the tensor of a raw form; numbers are not copied.

    Raises: RequestError if the bytes are not those of the shape and datatype.
    """
    num_elements = num_elements_of(name, shape)
    if datatype == "BYTES":
        return Tensor(datatype=datatype, values=_split_bytes(name, raw, num_elements).reshape(tuple(shape)))
    dtype = number_type(name, datatype)
    if len(raw) != num_elements * dtype.itemsize:
        raise RequestError(
            f"input {name!r} has shape {list(shape)} of {datatype}, hence {num_elements * dtype.itemsize} B, "
            f"but {len(raw)} B of data"
        )
    values = np.frombuffer(raw, dtype=dtype)
    return Tensor(datatype=datatype, values=values if len(shape) == 1 else values.reshape(tuple(shape)))


def number_type(name: str, datatype: str) -> np.dtype[Any]:
    """Return NumPy's type of a datatype of numbers.

    Raises: RequestError if the datatype is unknown.
    """
    if datatype not in NUMBER_TYPES:
        known = ", ".join([*NUMBER_TYPES, "BYTES"])
        raise RequestError(f"input {name!r} has datatype {datatype!r:.40}, expected one of {known}")
    return NUMBER_TYPES[datatype]


def datatype_of(values: npt.NDArray[Any]) -> str:
    """Return the datatype of numbers."""
    return _DATATYPES[values.dtype.newbyteorder("<")]


def num_elements_of(name: str, shape: Sequence[int]) -> int:
    """Return the number of elements of a shape.

    Raises: RequestError if a shape has too many dimensions, or a dimension is negative or too large for NumPy.
    """
    if len(shape) > MAX_DIMENSIONS or any(not 0 <= dimension < 2**31 for dimension in shape):
        raise RequestError(f"input {name!r} has shape {list(shape)!s:.80}; expected one dimension, 0 or more long")
    return math.prod(shape)


def raw_view(values: npt.NDArray[Any]) -> memoryview:
    """Return a view of the raw form of numbers, without a copy if they are little-endian and row-major already."""
    little = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def raw_form(tensor: Tensor) -> bytes:
    """Return the raw form of a tensor, the inverse of `tensor_from_bytes`."""
    if tensor.datatype != "BYTES":
        return raw_view(tensor.values).tobytes()
    elements = [one.encode() if isinstance(one, str) else one for one in tensor.values.ravel()]
    return b"".join(_LENGTH.pack(len(one)) + one for one in elements)


def _split_bytes(name: str, raw: bytes | memoryview, num_elements: int) -> npt.NDArray[np.object_]:
    elements: list[bytes] = []
    position = 0
    while position + _LENGTH.size <= len(raw) and len(elements) < num_elements:
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(raw, position)[0]
        elements.append(bytes(raw[start:position]))
    if len(elements) != num_elements or position != len(raw):
        raise RequestError(
            f"input {name!r} has shape for {num_elements} BYTES, but its {len(raw)} B of data hold {len(elements)} "
            f"that end at {position} B; each is its length (4 bytes, little-endian) and its bytes"
        )
    values = np.empty(num_elements, dtype=np.object_)
    values[:] = elements
    return values
