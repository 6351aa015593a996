"""Rows of embedding tables as the bytes of an encoding: what bundles hold and FBGEMM's lookup reads.

fp32, fp16  the numbers of a row, one after another
int8        a scale and a bias (fp16), then a byte q for each number, which is read as scale * q + bias

Legend: R rows, D numbers of each.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exfm.artifact.plan import Encoding
from exfm.errors import BundleError

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]

MAX_HALF = 65504.0
"""The largest number of half precision."""

MAX_FLOAT = float(np.finfo(np.float32).max)
"""The largest number of single precision."""


def encode_rows(rows_RD: Tensor, encoding: Encoding, *, table: str) -> Tensor:
    """Return rows as bytes; uint8 [R, row_bytes(D, encoding)]. An int8 number is at most half a scale off.

    Raises: BundleError, which names the table, if a number is NaN or infinite, or beyond MAX_HALF if the encoding is
    not fp32.
    """
    numbers_RD = rows_RD.detach().to(torch.float32).numpy()
    most = MAX_FLOAT if encoding == "fp32" else MAX_HALF
    if not (np.abs(numbers_RD) <= most).all():  # so that NaN is wrong
        raise BundleError(
            f"table {table!r} has numbers that are NaN or beyond {most:g}, which {encoding} cannot hold; train again"
            + ("" if encoding == "fp32" else ", or set sharding.encoding to fp32")
        )
    if encoding == "int8":
        return torch.from_numpy(_int8_rows(numbers_RD))
    numbers_RD = np.ascontiguousarray(numbers_RD, dtype={"fp32": np.float32, "fp16": np.float16}[encoding])
    return torch.from_numpy(numbers_RD.view(np.uint8))


def _int8_rows(numbers_RD: Floats) -> npt.NDArray[np.uint8]:
    bias_R1 = _rounded(numbers_RD.min(axis=1, keepdims=True), towards=-np.inf)
    scale_R1 = _rounded((numbers_RD.max(axis=1, keepdims=True) - bias_R1) / np.float32(255), towards=np.inf)
    steps_RD = (numbers_RD - bias_R1) / np.where(scale_R1 > 0, scale_R1, np.float16(1)).astype(np.float32)
    q_RD = np.clip(np.rint(steps_RD), 0, 255).astype(np.uint8)
    return np.concatenate([scale_R1.view(np.uint8), bias_R1.view(np.uint8), q_RD], axis=1)


def _rounded(numbers: Floats, *, towards: float) -> Halves:
    """Return the halves next to these numbers on one side, so that a row's q reach from its least to its largest."""
    halves = numbers.astype(np.float16)
    is_short = halves < numbers if towards > 0 else halves > numbers
    halves[is_short] = np.nextafter(halves[is_short], np.float16(towards))
    return halves
