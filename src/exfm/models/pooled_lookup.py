"""FBGEMM's lookup for inference: pooled embeddings of many tables, in any encoding, by one call.

Only the library that has it is loaded, not the package fbgemm_gpu, whose import brings all that trains.

Legend: L lookups, B bags of each, K rows of all of them, E dims of the lookups side by side.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exfm.artifact.plan import Encoding, row_bytes
from exfm.artifact.rows import Rows
from exfm.errors import ConfigError
from exfm.models.config import PooledPrecision
from exfm.models.device import CPU

_LIBRARY = "fbgemm_gpu_tbe_inference.so"

# FBGEMM's own numbers: SparseType, EmbeddingLocation's DEVICE and HOST, and PoolingMode.SUM.
_WEIGHT_TYPES: dict[Encoding, int] = {"fp32": 0, "fp16": 1, "int8": 2}
_DEVICE, _HOST, _SUM = 0, 3, 0

GPU_ROW_ALIGNMENT = 16
"""Bytes that FBGEMM's kernels for GPUs read at a time."""
_ROWS_AT_ONCE = 2**20
"""Rows that are copied at a time, which bounds memory on a GPU."""


@dataclass(frozen=True)
class EncodedTable:
    """Rows of a table in a flat tensor."""

    offset_bytes: int
    num_rows: int
    dim: int
    encoding: Encoding

    @property
    def row_bytes(self) -> int:
        """Return the bytes of a row."""
        return row_bytes(self.dim, self.encoding)


class PooledLookup:
    """Lookups in tables of one flat tensor, which is read where it lies."""

    def __init__(self, flat: Tensor, tables: Sequence[EncodedTable], *, precision: PooledPrecision = "fp32") -> None:
        """Look up in these tables (one at least), one after another; one may come twice. Rows are added up in fp32.

        On a GPU, rows must be aligned, as `with_aligned_rows` copies them.

        Raises: ConfigError if FBGEMM is not installed.
        """
        device = flat.device
        self._device = device
        ends = list(accumulate(table.dim for table in tables))
        widest = {
            encoding: max((table.dim for table in tables if table.encoding == encoding), default=0)
            for encoding in _WEIGHT_TYPES
        }
        self._call = partial(
            _lookup_function(),
            dev_weights=flat,
            uvm_weights=torch.empty(0, dtype=torch.uint8, device=device),
            weights_placements=torch.full(
                (len(tables),), _HOST if device.type == "cpu" else _DEVICE, dtype=torch.int32, device=device
            ),
            weights_offsets=torch.tensor([table.offset_bytes for table in tables], device=device),
            weights_tys=torch.tensor(
                [_WEIGHT_TYPES[table.encoding] for table in tables], dtype=torch.uint8, device=device
            ),
            D_offsets=torch.tensor([0, *ends], dtype=torch.int32, device=device),
            total_D=ends[-1],
            max_int2_D=0,
            max_int4_D=0,
            max_int8_D=widest["int8"],
            max_float16_D=widest["fp16"],
            max_float32_D=widest["fp32"],
            pooling_mode=_SUM,
            indice_weights=None,
            output_dtype=_WEIGHT_TYPES[precision],
            row_alignment=1 if device.type == "cpu" else GPU_ROW_ALIGNMENT,
        )

    def pooled(self, rows: Rows, offsets: npt.NDArray[np.int64]) -> Tensor:
        """Return the sum of each bag's rows, 0 for an empty bag; [B, E].

        `rows` [K] are numbered from each table's first row, and not checked. `offsets` [L * B + 1] has each bag's
        start, those of the first lookup first, and the end of the last.
        """
        indices, starts = (torch.from_numpy(one).to(self._device) for one in (rows, offsets))
        pooled_BE: Tensor = self._call(indices=indices, offsets=starts)
        return pooled_BE


def with_aligned_rows(
    flat: Tensor, tables: Sequence[EncodedTable], *, alignment: int, device: torch.device = CPU
) -> tuple[Tensor, list[EncodedTable]]:
    """Return a copy of tables, each row at a multiple of `alignment` bytes, and the tables in it."""
    widths = [table.row_bytes + -table.row_bytes % alignment for table in tables]
    ends = list(accumulate(table.num_rows * width for table, width in zip(tables, widths, strict=True)))
    copy = torch.zeros(ends[-1] if ends else 0, dtype=torch.uint8, device=device)
    placed: list[EncodedTable] = []
    for table, width, end in zip(tables, widths, ends, strict=True):
        at = end - table.num_rows * width
        rows_RX = flat[table.offset_bytes :][: table.num_rows * table.row_bytes].view(table.num_rows, table.row_bytes)
        places_RX = copy[at:end].view(table.num_rows, width)[:, : table.row_bytes]
        for rows, places in zip(
            torch.split(rows_RX, _ROWS_AT_ONCE), torch.split(places_RX, _ROWS_AT_ONCE), strict=True
        ):
            places.copy_(rows)
        placed.append(replace(table, offset_bytes=at))
    return copy, placed


@cache
def _lookup_function() -> Any:
    package = importlib.util.find_spec("fbgemm_gpu")
    if package is None or not package.submodule_search_locations:
        raise ConfigError("fbgemm_gpu is not installed, which looks tables up: install exfm[cpu] or exfm[cuda]")
    operators: Any = torch.ops
    operators.load_library(Path(package.submodule_search_locations[0]) / _LIBRARY)
    return operators.fbgemm.int_nbit_split_embedding_codegen_lookup_function
