"""Ranks: whose rows are whose; and what a lone process is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exfm.models.ranks import ALONE, Ranks
from exfm.training.crew import SOLO, Crew, CrewMember, by_all
from exfm.training.shrinkage import Shrinkage


@given(num_rows=st.integers(0, 100), size=st.integers(1, 12))
def test_each_row_of_a_minibatch_is_one_ranks(num_rows: int, size: int) -> None:
    ranges = [Ranks(rank, size).rows_of(num_rows) for rank in range(size)]
    assert [row for start, end in ranges for row in range(start, end)] == list(range(num_rows))
    lengths = [end - start for start, end in ranges]
    assert max(lengths) - min(lengths) <= 1


def test_a_lone_process_has_all_rows_and_its_own_tensors() -> None:
    one = torch.ones(3, 2)
    assert ALONE.rows_of(5) == (0, 5)
    assert torch.equal(ALONE.all_rows(one, 3), one)
    ALONE.add_up([one])
    assert torch.equal(one, torch.ones(3, 2))
    assert ALONE.collect({"one": one}).keys() == {"one"}


class Counter(CrewMember):
    def __init__(self, crew: Crew) -> None:
        super().__init__(crew)
        self.count = 0

    @by_all
    def add(self, number: int) -> int:
        self.count += number
        return self.count


def test_a_lone_leader_does_what_it_is_told_once() -> None:
    counter = Counter(SOLO)
    assert counter.add(3) == 3
    assert counter.add(4) == 7


def test_what_all_ranks_call_has_its_arguments_by_position() -> None:
    with pytest.raises(AssertionError, match="given by position"):
        Counter(SOLO).add(number=3)


def test_a_head_is_folded_where_it_lies() -> None:
    head = torch.nn.Linear(4, 2, device="meta")
    assert {name: value.device.type for name, value in Shrinkage(2).fold(head).items()} == {
        "weight": "meta", "bias": "meta",
    }  # fmt: skip
