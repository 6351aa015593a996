"""That a served layer multiplies as plainly as its precision allows, and is refused where it cannot."""

import math
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from exfm.errors import ConfigError, RequestError
from exfm.models.config import Precision
from exfm.models.linear import MAX_INT8_INPUTS, has_bf16, linear

ROUNDINGS: dict[Precision, float] = {"fp32": 2e-6, "bf16": 2**-7, "int8": 2**-5}
"""Share of an output's standard deviation that rounding may move it, some hundred inputs added up."""

CPU = dict(torch.cpu.get_capabilities())

HAS_VNNI = torch.cpu._is_vnni_supported()

needs_vnni = pytest.mark.skipif(not HAS_VNNI, reason="this CPU has no VNNI")


def precisions() -> list[object]:
    return [pytest.param(one, marks=needs_vnni if one == "int8" else ()) for one in get_args(Precision)]


@pytest.mark.parametrize("is_amd", [False, True])
@pytest.mark.parametrize("precision", precisions())
@given(
    num_rows=st.sampled_from([0, 1, 2, 63, 300]),
    num_inputs=st.sampled_from([0, 1, 3, 16, 130]),
    num_outputs=st.sampled_from([0, 1, 16, 65]),
    has_bias=st.booleans(),
    lies_in_order=st.booleans(),
    seed=st.integers(0, 99),
)
def test_outputs_are_the_plain_layers_but_for_rounding(
    precision: Precision,
    is_amd: bool,
    num_rows: int,
    num_inputs: int,
    num_outputs: int,
    has_bias: bool,
    lies_in_order: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, weight, bias = (
        torch.randn(*shape, generator=generator)
        for shape in ((num_rows, num_inputs), (num_outputs, num_inputs), (num_outputs,))
    )
    if not lies_in_order:
        inputs, weight = (one.T.contiguous().T for one in (inputs, weight))
        bias = torch.stack([bias, bias], dim=1)[:, 0]
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(torch.cpu, "get_capabilities", lambda: CPU | {"cpu_name": "AMD EPYC" if is_amd else "Intel"})
        layer = linear(weight, precision)
        found = layer(inputs.to(layer.dtype), bias if has_bias else None)
    expected = functional.linear(inputs, weight, bias if has_bias else None)
    assert (found.dtype, found.shape) == (layer.dtype, expected.shape)
    rounding = 4 * ROUNDINGS[precision] * (num_inputs + 1) ** 0.5
    torch.testing.assert_close(found.float(), expected, atol=rounding, rtol=rounding)


def test_bf16_is_packed_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CPU | {"cpu_name": "AMD EPYC"})
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not has_bf16()
    assert [type(linear(torch.ones(16, 16), one)).__name__ for one in ("fp32", "bf16")] == ["_Packed", "_Plain"]


@needs_vnni
def test_each_output_is_rounded_by_a_scale_of_its_own() -> None:
    weight = torch.tensor([[1000.0, -500.0], [0.01, 0.02], [0.0, 0.0]])
    found = linear(weight, "int8")(torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(found, torch.tensor([[500.0, 0.03, 0.0]]), rtol=0.02, atol=0)


@needs_vnni
@pytest.mark.parametrize("least", [-1.5, -0.5, -0.9, -1.9, 0.0, 3.0, -300.0, -254.1, -254.5, -254.9])
def test_int8_rounds_inputs_to_half_a_step(least: float) -> None:
    inputs = torch.tensor([[least, least + 255.0], [0.0, least]])
    step = (max(least + 255.0, 0.0) - min(least, 0.0)) / 255
    found = linear(torch.eye(2), "int8")(inputs)
    # As zero is a step, all steps may lie half a one from the least and the most.
    torch.testing.assert_close(found, inputs, rtol=0, atol=0.51 * step)


@needs_vnni
def test_int8_of_zeros_is_zero() -> None:
    assert not linear(torch.zeros(3, 2), "int8")(torch.ones(1, 2)).any()
    assert not linear(torch.ones(3, 2), "int8")(torch.zeros(1, 2)).any()


@needs_vnni
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_int8_refuses_inputs_that_are_no_numbers(bad: float) -> None:
    with pytest.raises(RequestError, match="a dense layer's inputs are not all finite numbers"):
        linear(torch.eye(2), "int8")(torch.tensor([[1.0, bad], [1.0, 1.0]]))


@needs_vnni
def test_int8_adds_up_as_many_inputs_as_it_takes_and_refuses_more() -> None:
    layer = linear(torch.ones(1, MAX_INT8_INPUTS), "int8")
    assert layer(torch.ones(1, MAX_INT8_INPUTS)).item() == pytest.approx(MAX_INT8_INPUTS, rel=1e-6)
    with pytest.raises(ConfigError, match="room for 66,311 inputs, but a layer has 66,312"):
        linear(torch.ones(1, MAX_INT8_INPUTS + 1), "int8")


@pytest.mark.parametrize("cpu", ["AMD EPYC", "Intel"])
@pytest.mark.parametrize("precision", precisions())
def test_several_threads_may_call_one_layer(precision: Precision, cpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: CPU | {"cpu_name": cpu})
    generator = torch.Generator().manual_seed(0)
    layer = linear(torch.randn(64, 300, generator=generator), precision)
    inputs = [torch.randn(100 + n, 300, generator=generator).to(layer.dtype) * (n + 1) for n in range(4)]
    expected = [layer(one) for one in inputs]

    def all_equal(place: int) -> bool:
        return all(torch.equal(layer(inputs[place]), expected[place]) for _ in range(200))

    with ThreadPoolExecutor(len(inputs)) as pool:
        assert all(pool.map(all_equal, range(len(inputs))))


def test_int8_is_refused_where_its_sums_could_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ConfigError, match="dense_precision is 'int8', but this CPU has no VNNI"):
        linear(torch.ones(2, 2), "int8")
