"""Unseen ids and collisions, held against counts by hand and by sets."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from exfm.artifact.manifest import Window
from exfm.artifact.rows import first_key_of_row, rows_of_keys
from exfm.features.batch import Bags, Batch, NetBatches
from exfm.schema import Schema
from exfm.training.ids import SeenIds
from exfm.training.manifest import TableIds

NUM_ROWS = 8

SCHEMA = Schema.parse(
    {
        "impression_key": "key",
        "event_time": {"column": "time"},
        "domain": "domain",
        "sparse": [
            {"name": "liked", "net": "user", "kind": "bag", "table": "item"},
            {"name": "item", "net": "item", "table": "item"},
            {"name": "user", "net": "user", "table": "user"},
        ],
        "tables": [{"name": "item", "rows": NUM_ROWS, "dim": 4}, {"name": "user", "rows": 1, "dim": 4}],
        "labels": [{"name": "click", "feedback": "click", "attribution_window": 0}],
    },
    source="test",
)


def window(index: int) -> Window:
    return Window(index=index, start=index, end=index + 1)


def key(row: int, number: int) -> int:
    """Return one of the keys whose row in the table of items is `row`."""
    return first_key_of_row(row, NUM_ROWS) + number


def bags(*keys: list[int]) -> Bags:
    offsets = np.cumsum([0, *map(len, keys)])
    return Bags(keys=np.array([k for bag in keys for k in bag], dtype=np.uint64), offsets=offsets)


def batches(*, liked: list[list[int]], item: list[int], user: list[int]) -> NetBatches:
    count, dense = len(item), np.empty((len(item), 0), dtype=np.float32)
    return NetBatches(
        user=Batch(count, dense, {"liked": bags(*liked), "user": bags(*([u] for u in user))}),
        item=Batch(count, dense, {"item": bags(*([i] for i in item))}),
        num_candidates=np.ones(count, dtype=np.int64),
    )


A, B, C, D = key(0, 0), key(0, 1), key(3, 0), key(7, 5)
FIRST = batches(liked=[[A, A, C], []], item=[A, C], user=[1, 1])
SECOND = batches(liked=[[A], [B, D, D]], item=[B, C], user=[1, 2])


def test_counts_by_hand() -> None:
    seen = SeenIds(SCHEMA)
    assert seen.add(window(0), FIRST) == {
        "item": TableIds(num_ids=5, unseen=1.0, num_keys=2, collisions=0.0),
        "user": TableIds(num_ids=2, unseen=1.0, num_keys=1, collisions=0.0),
    }
    assert seen.add(window(1), SECOND) == {
        "item": TableIds(num_ids=6, unseen=4 / 6, num_keys=4, collisions=2 / 4),  # B twice, D twice; A and B share
        "user": TableIds(num_ids=2, unseen=0.5, num_keys=2, collisions=1.0),
    }


def test_a_window_without_ids_has_no_share() -> None:
    seen, none = SeenIds(SCHEMA), batches(liked=[], item=[], user=[])
    assert seen.add(window(0), none)["item"] == TableIds(num_ids=0, unseen=None, num_keys=0, collisions=None)
    seen.add(window(1), FIRST)
    assert seen.add(window(2), none)["item"] == TableIds(num_ids=0, unseen=None, num_keys=2, collisions=0.0)


def test_a_later_run_adds_the_windows_again_that_were_not_learned() -> None:
    seen, at_once = SeenIds(SCHEMA), SeenIds(SCHEMA)
    for ids in (seen, at_once):
        ids.add(window(0), FIRST)
        ids.note_learned(window(0))
        expected = ids.add(window(1), SECOND)
    state = seen.state()
    assert set(state["item"].tolist()) == {A, C}
    assert sum(array.nbytes for array in state.values()) == 8 * 3, "8 bytes a key"
    later = SeenIds(SCHEMA)
    later.restore(state)
    assert later.add(window(1), SECOND) == expected
    for ids in (later, at_once):
        ids.note_learned(window(1))
    np.testing.assert_array_equal(later.state()["item"], at_once.state()["item"])


@given(st.lists(st.lists(st.integers(0, 40).map(lambda i: i * (2**64 // 41)), max_size=12), max_size=5))
def test_counts_are_those_of_sets(windows: list[list[int]]) -> None:
    ids, seen = SeenIds(SCHEMA), set()
    for index, keys in enumerate(windows):
        found = ids.add(window(index), batches(liked=[[] for _ in keys], item=keys, user=[0 for _ in keys]))["item"]
        assert found.unseen == (sum(k not in seen for k in keys) / len(keys) if keys else None)
        seen |= set(keys)
        rows = Counter(rows_of_keys(np.array(sorted(seen), dtype=np.uint64), NUM_ROWS).tolist())
        assert found.num_keys == len(seen)
        assert found.collisions == (sum(n for n in rows.values() if n > 1) / len(seen) if seen else None)
