"""Rows in every encoding, as bytes and as FBGEMM reads them."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_model import as_kept

from exfm.artifact.plan import ENCODINGS, Encoding, row_bytes
from exfm.errors import BundleError
from exfm.models.config import PooledPrecision
from exfm.models.encoding import encode_rows
from exfm.models.pooled_lookup import EncodedTable, PooledLookup, with_aligned_rows

KNOWN: dict[Encoding, tuple[list[float], str]] = {
    "fp32": ([1.0, -2.0, 0.5, 0.0], "0000803f 000000c0 0000003f 00000000"),
    "fp16": ([1.0, -2.0, 0.5, 65504.0], "003c 00c0 0038 ff7b"),
    "int8": ([-1.0, 126.5, 0.0, 0.5], "0038 00bc 00 ff 02 03"),  # scale 0.5, bias -1, then each number's byte
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_known_bytes_of_a_row(encoding: Encoding) -> None:
    numbers, expected = KNOWN[encoding]
    encoded = encode_rows(torch.tensor([numbers]), encoding, table="t")
    assert encoded.numpy().tobytes() == bytes.fromhex(expected)
    assert encoded.shape == (1, row_bytes(4, encoding))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_known_pooled_embeddings_of_known_bytes(encoding: Encoding) -> None:
    numbers, known = KNOWN[encoding]
    flat = torch.frombuffer(bytearray.fromhex(2 * known), dtype=torch.uint8)
    lookup = PooledLookup(flat, [EncodedTable(0, 2, 4, encoding)])
    pooled = lookup.pooled(np.array([0, 1, 1]), np.array([0, 1, 1, 3]))
    assert pooled.tolist() == [numbers, [0.0] * 4, [2 * number for number in numbers]]
    assert pooled.dtype == torch.float32


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pooled_embeddings_are_rounded_to_half_precision_once_they_are_added_up(encoding: Encoding) -> None:
    torch.manual_seed(0)
    flat = encode_rows(torch.randn(500, 8), encoding, table="t").view(-1)
    exact, halves = (
        PooledLookup(flat, [EncodedTable(0, 500, 8, encoding)], precision=precision).pooled(
            np.arange(500), np.array([0, 1, 500])
        )
        for precision in get_args(PooledPrecision)
    )
    assert (exact.dtype, halves.dtype) == (torch.float32, torch.float16)
    torch.testing.assert_close(halves, exact.half(), rtol=0, atol=0)


def test_tables_of_all_encodings_are_looked_up_by_one_call_in_any_order() -> None:
    flat = torch.frombuffer(bytearray.fromhex("".join(KNOWN[encoding][1] for encoding in ENCODINGS)), dtype=torch.uint8)
    offsets = {"fp32": 0, "fp16": 16, "int8": 24}
    order: list[Encoding] = ["int8", "fp32", "fp16", "int8"]
    lookup = PooledLookup(flat, [EncodedTable(offsets[encoding], 1, 4, encoding) for encoding in order])
    pooled = lookup.pooled(np.zeros(4, dtype=np.int64), np.arange(5))
    assert pooled.tolist() == [[number for encoding in order for number in KNOWN[encoding][0]]]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "shapes", [((1, 8), (1, 16)), ((3, 8), (2, 64)), ((1, 4), (1, 64)), ((1, 4), (5, 128))], ids=str
)
def test_small_tables_are_looked_up_wherever_others_lie(
    encoding: Encoding, shapes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    torch.manual_seed(0)
    first, second = (encode_rows(torch.randn(shape), encoding, table="t") for shape in shapes)
    flat = torch.cat([first.reshape(-1), second.reshape(-1)])
    tables = [EncodedTable(0, *shapes[0], encoding), EncodedTable(first.numel(), *shapes[1], encoding)]
    rows = np.array([shapes[0][0] - 1, shapes[1][0] - 1])
    as_they_lie = PooledLookup(flat, tables).pooled(rows, np.arange(3))
    the_other_way = PooledLookup(flat, tables[::-1]).pooled(rows[::-1].copy(), np.arange(3))
    assert torch.equal(the_other_way.roll(shapes[0][1], dims=1), as_they_lie)


def test_a_copy_with_aligned_rows_holds_the_same_rows() -> None:
    torch.manual_seed(0)
    encoded = {encoding: encode_rows(torch.randn(5, 12), encoding, table="t") for encoding in ENCODINGS}
    flat = torch.cat([torch.zeros(3, dtype=torch.uint8), *(rows.reshape(-1) for rows in encoded.values())])
    at, tables = 3, list[EncodedTable]()
    for encoding, rows in encoded.items():
        tables.append(EncodedTable(at, 5, 12, encoding))
        at += rows.numel()
    copy, placed = with_aligned_rows(flat, tables, alignment=16)
    for table, rows in zip(placed, encoded.values(), strict=True):
        size = -(-table.row_bytes // 16) * 16
        assert table.offset_bytes % 16 == 0
        assert torch.equal(copy[table.offset_bytes :][: 5 * size].view(5, size)[:, : table.row_bytes], rows)


@st.composite
def tables(draw: st.DrawFn) -> torch.Tensor:
    """Return 8 rows of some dim, around some number, some narrowly."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    middle, spread = (
        draw(st.sampled_from([0.0, 0.1, -5.0, 300.0])),
        draw(st.sampled_from([0.0, 1e-7, 1e-3, 1.0, 100.0])),
    )
    numbers = middle + spread * random.standard_normal((8, draw(st.sampled_from([4, 8, 20, 64, 128]))))
    return torch.from_numpy(numbers.astype(np.float32))


bags = st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=5)


def summed(table: torch.Tensor, encoding: Encoding, rows: list[list[int]]) -> torch.Tensor:
    flat = encode_rows(table, encoding, table="t").view(-1)
    offsets = np.cumsum([0, *map(len, rows)])
    return PooledLookup(flat, [EncodedTable(0, *table.shape, encoding)]).pooled(
        np.array([row for bag in rows for row in bag], dtype=np.int64), offsets
    )


def summed_by_torch(table: torch.Tensor, rows: list[list[int]]) -> torch.Tensor:
    return torch.nn.functional.embedding_bag(
        torch.tensor([row for bag in rows for row in bag], dtype=torch.int64), table,
        torch.tensor(np.cumsum([0, *map(len, rows)])), mode="sum", include_last_offset=True,
    )  # fmt: skip


@given(tables(), bags)
def test_fp32_pooled_embeddings_are_torchs_to_the_last_bit(table: torch.Tensor, rows: list[list[int]]) -> None:
    assert torch.equal(summed(table, "fp32", rows), summed_by_torch(table, rows))


@given(tables(), bags, st.sampled_from(["fp16", "int8"]))
def test_pooled_embeddings_are_those_of_the_numbers_that_the_bytes_mean(
    table: torch.Tensor, rows: list[list[int]], encoding: Encoding
) -> None:
    expected = summed_by_torch(as_kept(table, encoding), rows)
    torch.testing.assert_close(summed(table, encoding, rows), expected, rtol=1e-5, atol=1e-5 * float(table.abs().max()))


@given(tables())
def test_int8_is_at_most_half_a_scale_off_and_scales_are_as_small_as_can_be(table: torch.Tensor) -> None:
    scale_R1 = encode_rows(table, "int8", table="t")[:, :2].contiguous().view(torch.float16).double()
    low_R1, high_R1 = (end.double() for end in torch.aminmax(table, dim=1, keepdim=True))
    off_RD = (as_kept(table, "int8").double() - table.double()).abs()
    rounding = 1e-6 * float(table.abs().max())  # of fp32 arithmetic
    assert (off_RD <= scale_R1 / 2 + rounding).all()
    step_R1 = low_R1.abs() * 2**-10 + 2**-24  # of half precision, in which the bias is rounded down
    assert (scale_R1 * 255 <= (high_R1 - low_R1 + step_R1) * (1 + 2**-10) + 255 * 2**-24).all()


@given(tables())
def test_fp16_is_off_by_half_precisions_rounding(table: torch.Tensor) -> None:
    off_RD = (as_kept(table, "fp16") - table).abs()
    assert (off_RD <= table.abs() * 2**-11 + 2**-25).all()


@pytest.mark.parametrize("number", [65505.0, -1e9, float("inf"), float("nan")])
@pytest.mark.parametrize("encoding", ["fp16", "int8"])
def test_numbers_that_half_precision_does_not_have_are_refused(encoding: Encoding, number: float) -> None:
    with pytest.raises(
        BundleError, match=rf"table 'ads' has numbers that are NaN or beyond 65504, .* {encoding} cannot hold"
    ):
        encode_rows(torch.tensor([[1.0, 2.0, number, 4.0]]), encoding, table="ads")


def test_single_precision_has_numbers_beyond_half_precision() -> None:
    encoded = encode_rows(torch.tensor([[1.0, 2.0, -1e9, 65505.0]]), "fp32", table="ads")
    assert encoded.view(torch.float32).tolist() == [[1.0, 2.0, -1e9, 65505.0]]


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_number_is_refused_in_single_precision_too(number: float) -> None:
    with pytest.raises(
        BundleError, match=r"table 'ads' has numbers that are NaN or beyond .*, which fp32 cannot hold; train"
    ):
        encode_rows(torch.tensor([[1.0, 2.0, number, 4.0]]), "fp32", table="ads")
