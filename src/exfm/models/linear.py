"""Linear layers of a served network, in the precision that its settings name.

Legend: N rows, I inputs, O outputs.
"""

import math
import warnings
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from exfm.errors import ConfigError, RequestError
from exfm.models.config import Precision

MIN_PACKED = 16
"""Fewest inputs and outputs of a layer for which oneDNN is used. It refuses 0, and gains nothing on fewer than this."""

TINY = torch.finfo(torch.float32).tiny
"""Smallest scale, for numbers that are all 0."""
MAX_INT8_INPUTS = 2**31 // (255 * 127)
"""Most inputs of a layer: the sum of this many of the largest products fits into 32 bits."""


class Linear(Protocol):
    """A layer of fixed weights."""

    dtype: torch.dtype
    """Type of the inputs and the outputs."""

    def __call__(self, inputs_NI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        """Return inputs W^T + bias, [N, O], as a new tensor."""


def linear(weight_OI: Tensor, precision: Precision) -> Linear:
    """Return a layer with these weights, on their device.

    Raises: ConfigError if this machine cannot multiply in this precision.
    """
    if precision == "int8" and weight_OI.numel():
        return _Int8(weight_OI)
    if precision == "bf16":
        weight_OI = weight_OI.bfloat16()
    is_large = min(weight_OI.shape) >= MIN_PACKED and not weight_OI.is_cuda
    return _Packed(weight_OI) if is_large and _is_faster_packed(weight_OI.dtype) else _Plain(weight_OI)


def has_bf16() -> bool:
    """Return whether this CPU has instructions that multiply in bf16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class _Plain:
    """A layer by torch's default library."""

    def __init__(self, weight_OI: Tensor) -> None:
        self._weight_OI = weight_OI.contiguous()
        self.dtype = weight_OI.dtype

    def __call__(self, inputs_NI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        return functional.linear(inputs_NI, self._weight_OI, None if bias_O is None else bias_O.to(self.dtype))


class _Packed:
    """A layer by oneDNN, with weights packed in oneDNN's order."""

    def __init__(self, weight_OI: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())
        self.dtype = weight_OI.dtype

    def __call__(self, inputs_NI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        bias_O = None if bias_O is None else bias_O.to(self.dtype).contiguous()
        outputs_NO: Tensor = torch.ops.mkldnn._linear_pointwise(inputs_NI, self._weight, bias_O, "none", [], "")
        return outputs_NO


class _Int8:
    """A layer by oneDNN in int8: weights are rounded once, by a scale for each output, and inputs at each call, by one.

    A call keeps no state, so several threads may call it.
    """

    dtype = torch.float32

    def __init__(self, weight_OI: Tensor) -> None:
        assert not weight_OI.is_cuda, "settings have no int8 for a GPU"
        if not torch.cpu._is_vnni_supported():
            raise ConfigError(
                "dense_precision is 'int8', but this CPU has no VNNI instructions, without which sums of products "
                "could overflow; set 'fp32' or 'bf16'"
            )
        if weight_OI.shape[1] > MAX_INT8_INPUTS:
            raise ConfigError(
                f"dense_precision is 'int8', whose sums have room for {MAX_INT8_INPUTS:,} inputs, but a layer has "
                f"{weight_OI.shape[1]:,}; set 'fp32' or 'bf16'"
            )
        self._scales_O = (weight_OI.abs().amax(dim=1) / 127).clamp_(min=TINY)
        self._zeros_O = torch.zeros(len(weight_OI), dtype=torch.int64)
        rounded_OI = (weight_OI / self._scales_O.unsqueeze(1)).round_().to(torch.int8)
        # oneDNN ignores strides, so the weights must be contiguous.
        self._weight = torch.ops.onednn.qlinear_prepack(rounded_OI.contiguous(), None)
        with warnings.catch_warnings():  # torch announces once that quantized tensors will be removed
            warnings.filterwarnings("ignore", message=".*quantized tensor creation functions", category=UserWarning)
            _bytes_of(weight_OI.new_zeros(1), scale=1.0, zero=0)

    def __call__(self, inputs_NI: Tensor, bias_O: Tensor | None = None) -> Tensor:
        if not len(inputs_NI):
            return inputs_NI.new_empty((0, len(self._scales_O)))
        least, most = (float(one) for one in torch.aminmax(inputs_NI))
        least, most = min(least, 0.0), max(most, 0.0)  # so that 0, as after a ReLU, stays 0
        scale = max((most - least) / 255, TINY)
        if not math.isfinite(scale):
            raise RequestError(
                "a dense layer's inputs are not all finite numbers, so they have no scale in int8: the request's dense "
                "features are too large to compute with; send them as the model was trained on them"
            )
        zero = round(-least / scale)
        outputs_NO: Tensor = torch.ops.onednn.qlinear_pointwise(
            _bytes_of(inputs_NI, scale=scale, zero=zero), scale, zero, self._weight, self._scales_O, self._zeros_O,
            None if bias_O is None else bias_O.contiguous(), 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return outputs_NO


def _bytes_of(inputs: Tensor, *, scale: float, zero: int) -> Tensor:
    """Return round(inputs / scale) + zero within 0 to 255 as uint8, in one pass."""
    rounded = torch.quantize_per_tensor(inputs.contiguous(), scale, zero, torch.quint8)
    return torch.empty(0, dtype=torch.uint8).set_(rounded.untyped_storage(), 0, rounded.shape, rounded.stride())


def _is_faster_packed(dtype: torch.dtype) -> bool:
    """Return whether oneDNN multiplies faster here than torch's choice: it does on AMD's CPUs."""
    has_mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_mkldnn or not str(torch.cpu.get_capabilities().get("cpu_name")).startswith("AMD"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and has_bf16())
