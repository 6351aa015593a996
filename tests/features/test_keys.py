import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.features.keys import keys_of_integers, keys_of_strings

CONTRACT = (Path(__file__).parents[2] / "docs/contracts.md").read_text(encoding="utf-8")
KNOWN = re.findall(r'`("[^"`]*"|-?\d+)` \| `0x([0-9a-f]{16})`', CONTRACT)
INTEGERS = [(int(id_), int(key, 16)) for id_, key in KNOWN if not id_.startswith('"')]
STRINGS = [(id_.strip('"'), int(key, 16)) for id_, key in KNOWN if id_.startswith('"')]

INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix64(id_: int) -> int:
    """Return the first output of SplitMix64 with this seed, in Python's integers (Vigna's splitmix64.c)."""
    mask = 2**64 - 1
    z = (id_ + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_contract_gives_four_known_answers_of_each_type() -> None:
    assert [id_ for id_, _ in INTEGERS] == [0, 1, -1, 1234567]
    assert [id_ for id_, _ in STRINGS] == ["", "a", "Ω", "student"]


@pytest.mark.parametrize(("id_", "key"), INTEGERS)
def test_an_integers_key_is_the_contracts(id_: int, key: int) -> None:
    assert keys_of_integers(np.array([id_])).tolist() == [key]


@pytest.mark.parametrize(("id_", "key"), STRINGS)
def test_a_strings_key_is_the_contracts(id_: str, key: int) -> None:
    assert keys_of_strings([id_]).tolist() == [key]


def test_the_first_two_outputs_of_vignas_generator_are_met() -> None:
    # https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64, seed 1234567; the second comes of seed + gamma.
    gamma = 0x9E3779B97F4A7C15 - 2**64
    assert keys_of_integers(np.array([1234567, 1234567 + gamma])).tolist() == [
        6457827717110365317,
        3203168211198807973,
    ]


@given(st.lists(INT64, max_size=30))
def test_integers_keys_are_splitmix64s(ids: list[int]) -> None:
    keys = keys_of_integers(np.array(ids, dtype=np.int64))
    assert keys.dtype == np.uint64
    assert keys.tolist() == [splitmix64(id_ % 2**64) for id_ in ids]


@given(st.lists(st.text(), max_size=10))
def test_a_string_and_its_utf8_have_one_key(ids: list[str]) -> None:
    keys = keys_of_strings(ids)
    assert keys.dtype == np.uint64
    assert keys.tolist() == keys_of_strings([id_.encode() for id_ in ids]).tolist()


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32])
def test_a_smaller_integer_type_has_the_same_keys(dtype: type[np.integer]) -> None:  # type: ignore[type-arg]
    ids = np.array([0, 1, 100], dtype=dtype)
    assert keys_of_integers(ids).tolist() == keys_of_integers(ids.astype(np.int64)).tolist()


def test_negative_ids_of_a_smaller_type_are_sign_extended() -> None:
    assert keys_of_integers(np.array([-1], dtype=np.int32)).tolist() == [splitmix64(2**64 - 1)]


def test_ids_are_left_as_they_are() -> None:
    ids = np.array([3, 4], dtype=np.int64)
    ids.setflags(write=False)
    keys_of_integers(ids)
    assert ids.tolist() == [3, 4]


def test_keys_have_the_shape_of_the_ids() -> None:
    assert keys_of_integers(np.zeros((2, 3), dtype=np.int64)).shape == (2, 3)
    assert keys_of_integers(np.array([], dtype=np.int64)).shape == (0,)
    assert keys_of_strings([]).shape == (0,)


def test_a_column_that_is_not_contiguous_has_the_same_keys() -> None:
    ids = np.arange(10)[::3]
    assert keys_of_integers(ids).tolist() == keys_of_integers(ids.copy()).tolist()
