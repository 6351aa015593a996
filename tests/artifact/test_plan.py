from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from exfm.artifact.hot_rows import RowSet
from exfm.artifact.plan import ALIGNMENT_BYTES, ROW_SET_BYTES, Assignment, Encoding, ShardPlan, assign, row_bytes
from exfm.artifact.rows import rows_of_keys
from exfm.errors import ConfigError, PlanError
from exfm.schema import Schema


def schema_of(sizes: list[tuple[int, int]]) -> Schema:
    """Return a schema with tables t0, t1, ... of these rows and dims."""
    return Schema.parse(
        {
            "impression_key": "k",
            "event_time": {"column": "t"},
            "domain": "d",
            "sparse": [{"name": f"f{i}", "net": "item", "table": f"t{i}"} for i in range(len(sizes))],
            "tables": [{"name": f"t{i}", "rows": rows, "dim": dim} for i, (rows, dim) in enumerate(sizes)],
            "labels": [{"name": "l", "feedback": "f", "attribution_window": 1}],
        },
        source="a test",
    )


def plan_of(schema: Schema, assignments: list[Assignment], num_shards: int) -> ShardPlan:
    slices = assign(schema, assignments, num_shards)
    return ShardPlan(strategy="by-hand", num_shards=num_shards, replicas=(1,) * num_shards, slices=slices)


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    sizes = st.tuples(st.one_of(st.integers(1, 40), st.integers(1, 2**32)), st.integers(1, 8).map(lambda n: 4 * n))
    return schema_of(draw(st.lists(sizes, min_size=1, max_size=4)))


@st.composite
def assignments_for(draw: st.DrawFn, schema: Schema, num_shards: int) -> list[Assignment]:
    """Draw a split of every table by rows and copies of hot rows of some, on any shards and in any order."""
    assignments = []
    for table in schema.tables:
        if table.rows > 1 and draw(st.booleans()):
            num_hot = draw(st.integers(1, table.rows - 1))
            assignments.append(Assignment(table.name, draw(st.integers(0, num_shards - 1)), 0, num_hot, hot=True))
        cuts = draw(st.sets(st.integers(1, table.rows - 1), max_size=4)) if table.rows > 1 else set()
        for first, end in pairwise([0, *sorted(cuts), table.rows]):
            shard = draw(st.integers(0, num_shards - 1))
            assignments.append(Assignment(table.name, shard, first, end - first))
    return draw(st.permutations(assignments))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schema, list[Assignment], int]:
    schema, num_shards = draw(schemas()), draw(st.integers(1, 4))
    return schema, draw(assignments_for(schema, num_shards)), num_shards


@pytest.mark.slow
@given(cases())
def test_any_split_of_all_tables_is_a_plan(case: tuple[Schema, list[Assignment], int]) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    assert plan.check(schema) is plan
    assert ShardPlan.parse(plan.to_dict(), source="JSON").check(schema) == plan


@given(cases())
def test_slices_are_aligned_and_do_not_overlap(case: tuple[Schema, list[Assignment], int]) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    for shard in range(num_shards):
        end = 0
        for slice_ in sorted(plan.slices_on(shard), key=lambda s: s.offset_bytes):
            assert slice_.offset_bytes % ALIGNMENT_BYTES == 0
            assert slice_.offset_bytes >= end
            assert slice_.offset_bytes - end < ALIGNMENT_BYTES
            assert slice_.size_bytes == 4 * slice_.num_rows * schema.table(slice_.table).dim
            end = slice_.offset_bytes + slice_.size_bytes
        assert plan.flat_size_bytes(shard) == end


@given(cases(), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_a_key_is_in_exactly_one_row_slice_and_that_has_its_row(
    case: tuple[Schema, list[Assignment], int], keys: list[int]
) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    for table in schema.tables:
        slices = [s for s in plan.by_table()[table.name] if s.kind == "rows"]
        edges = [int(key, 16) for s in slices for key in (s.first_key, s.last_key)]
        for key in [*keys, *edges]:
            (owner,) = [s for s in slices if int(s.first_key, 16) <= key <= int(s.last_key, 16)]
            row = int(rows_of_keys(np.array([key], dtype=np.uint64), table.rows)[0])
            assert owner.first_row <= row < owner.first_row + owner.num_rows


@given(cases())
def test_a_hot_slice_is_the_last_of_its_table_and_takes_any_key(
    case: tuple[Schema, list[Assignment], int],
) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    hot = plan.hot_slices()
    assert sorted(hot) == sorted(a.table for a in assignments if a.hot)
    for name, slice_ in hot.items():
        assert plan.by_table()[name][-1] is slice_
        assert (slice_.first_row, slice_.first_key, slice_.last_key) == (0, "0x" + "0" * 16, "0x" + "f" * 16)


@given(cases(), st.data())
def test_a_plan_that_drops_rows_is_refused(case: tuple[Schema, list[Assignment], int], data: st.DataObject) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    dropped = data.draw(st.sampled_from([slice_ for slice_ in plan.slices if slice_.kind == "rows"]))
    less = plan.model_copy(update={"slices": tuple(s for s in plan.slices if s is not dropped)})
    with pytest.raises(PlanError, match=f"table '{dropped.table}'"):
        less.check(schema)


@given(cases(), st.data())
def test_a_plan_that_places_a_slice_twice_is_refused(
    case: tuple[Schema, list[Assignment], int], data: st.DataObject
) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    twice = data.draw(st.sampled_from(plan.slices))
    more = plan.model_copy(update={"slices": (*plan.slices, twice)})
    with pytest.raises(PlanError, match=f"table '{twice.table}'"):
        more.check(schema)


@given(cases(), st.data())
def test_a_plan_with_a_shifted_slice_is_refused(
    case: tuple[Schema, list[Assignment], int], data: st.DataObject
) -> None:
    schema, assignments, num_shards = case
    index = data.draw(st.integers(0, len(assignments) - 1))
    shift = data.draw(st.integers(-3, 3).filter(bool))
    moved = assignments[index]
    assume(moved.first_row + shift >= 0)
    assignments[index] = replace(moved, first_row=moved.first_row + shift)
    with pytest.raises(PlanError, match=f"table '{moved.table}'"):
        assign(schema, assignments, num_shards)


@given(cases(), st.data())
def test_a_plan_with_one_wrong_field_is_refused(
    case: tuple[Schema, list[Assignment], int], data: st.DataObject
) -> None:
    schema, assignments, num_shards = case
    plan = plan_of(schema, assignments, num_shards)
    index = data.draw(st.integers(0, len(plan.slices) - 1))
    right = plan.slices[index]
    change = data.draw(
        st.sampled_from(
            [
                {"offset_bytes": right.offset_bytes + 64},
                {"size_bytes": right.size_bytes + 4},
                {"first_key": f"0x{(int(right.first_key, 16) + 1) % 2**64:016x}"},
                {"last_key": f"0x{int(right.last_key, 16) - 1:016x}"},
                {"kind": "hot" if right.kind == "rows" else "rows"},
            ]
        )
    )
    slices = list(plan.slices)
    slices[index] = right.model_copy(update=change)
    with pytest.raises(PlanError, match=f"{right.table!r}"):
        plan.model_copy(update={"slices": tuple(slices)}).check(schema)


def test_rows_that_are_not_placed_are_named() -> None:
    schema = schema_of([(100, 4)])
    with pytest.raises(PlanError, match="table 't0': rows 30 to 39 are not placed"):
        assign(schema, [Assignment("t0", 0, 0, 30), Assignment("t0", 0, 40, 60)], 1)


def test_hot_rows_do_not_stand_in_for_rows() -> None:
    with pytest.raises(PlanError, match="table 't0' has 100 rows, but the plan places 0"):
        assign(schema_of([(100, 4)]), [Assignment("t0", 0, 0, 99, hot=True)], 1)


def test_hot_rows_in_two_slices_are_refused() -> None:
    hot = [Assignment("t0", shard, 0, 10, hot=True) for shard in (0, 1)]
    with pytest.raises(PlanError, match="table 't0' has hot rows in 2 slices; at most one may hold them"):
        assign(schema_of([(100, 4)]), [Assignment("t0", 0, 0, 100), *hot], 2)


@pytest.mark.parametrize("num_hot", [0, 100])
def test_hot_rows_that_are_none_or_all_of_a_table_are_refused(num_hot: int) -> None:
    with pytest.raises(PlanError, match=f"table 't0' has {num_hot} hot rows, expected 1 to 99 of its 100"):
        assign(schema_of([(100, 4)]), [Assignment("t0", 0, 0, 100), Assignment("t0", 0, 0, num_hot, hot=True)], 1)


def test_a_slice_without_rows_is_refused() -> None:
    with pytest.raises(PlanError, match="table 't0': a slice from row 0 has 0 rows"):
        assign(schema_of([(100, 4)]), [Assignment("t0", 0, 0, 0), Assignment("t0", 0, 0, 100)], 1)


def test_a_plan_of_before_hot_rows_is_read(plan: ShardPlan, schema: Schema) -> None:
    data = plan.to_dict()
    for slice_ in data["slices"]:
        del slice_["kind"]
    assert ShardPlan.parse(data, source="x").check(schema) == plan


def test_rows_that_are_placed_twice_are_named() -> None:
    schema = schema_of([(100, 4)])
    with pytest.raises(PlanError, match="table 't0': rows 30 to 39 are placed twice"):
        assign(schema, [Assignment("t0", 0, 0, 40), Assignment("t0", 1, 30, 70)], 2)


@pytest.mark.parametrize("placed", [99, 101])
def test_a_table_with_other_rows_than_placed_is_named(placed: int) -> None:
    with pytest.raises(PlanError, match=f"table 't0' has 100 rows, but the plan places {placed}"):
        assign(schema_of([(100, 4)]), [Assignment("t0", 0, 0, placed)], 1)


@pytest.mark.parametrize("shard", [-1, 2])
def test_a_shard_that_does_not_exist_is_refused(shard: int) -> None:
    with pytest.raises(PlanError, match=f"table 't0' is on shard {shard}; there are 2"):
        assign(schema_of([(100, 4)]), [Assignment("t0", shard, 0, 100)], 2)


def test_a_plan_for_a_table_that_the_schema_lacks_is_refused() -> None:
    wide = schema_of([(10, 4), (10, 4)])
    plan = plan_of(wide, [Assignment("t0", 0, 0, 10), Assignment("t1", 0, 0, 10)], 1)
    with pytest.raises(PlanError, match="places table t1, which the schema does not have"):
        plan.check(schema_of([(10, 4)]))


def test_a_plan_for_other_dims_is_refused() -> None:
    plan = plan_of(schema_of([(10, 4)]), [Assignment("t0", 0, 0, 10)], 1)
    with pytest.raises(PlanError, match="plan again"):
        plan.check(schema_of([(10, 8)]))


def test_a_plan_without_replicas_for_each_shard_is_refused(plan: ShardPlan, schema: Schema) -> None:
    with pytest.raises(PlanError, match="the plan has 2 shards, but replicas for 1"):
        plan.model_copy(update={"replicas": (1,)}).check(schema)


def test_known_key_ranges_of_a_split() -> None:
    slices = assign(schema_of([(4, 4)]), [Assignment("t0", 0, 0, 1), Assignment("t0", 1, 1, 3)], 2)
    assert [(s.first_key, s.last_key) for s in slices] == [
        ("0x0000000000000000", "0x3fffffffffffffff"),
        ("0x4000000000000000", "0xffffffffffffffff"),
    ]


def test_known_offsets_of_slices() -> None:
    schema = schema_of([(3, 4), (1, 4)])
    slices = assign(schema, [Assignment("t0", 0, 0, 3), Assignment("t1", 0, 0, 1)], 1)
    assert [(s.offset_bytes, s.size_bytes) for s in slices] == [(0, 48), (64, 16)]


@pytest.mark.parametrize(("encoding", "bytes_of_row"), [("fp32", 48), ("fp16", 24), ("int8", 16)])
def test_known_bytes_of_a_row_and_of_slices(encoding: Encoding, bytes_of_row: int) -> None:
    assert row_bytes(12, encoding) == bytes_of_row
    slices = assign(schema_of([(3, 12)]), [Assignment("t0", 0, 0, 3)], 1, encoding=encoding)
    assert [(s.encoding, s.size_bytes) for s in slices] == [(encoding, 3 * bytes_of_row)]


def test_a_plan_of_two_encodings_is_refused() -> None:
    schema = schema_of([(3, 4), (1, 4)])
    assignments = [Assignment("t0", 0, 0, 3), Assignment("t1", 0, 0, 1)]
    mixed = [
        assign(schema, assignments, 1, encoding=encoding)[place] for place, encoding in enumerate(["fp16", "int8"])
    ]
    plan = ShardPlan(strategy="by-hand", num_shards=1, replicas=(1,), slices=tuple(mixed))
    with pytest.raises(PlanError, match=r"encoding='int8'.* should be .*encoding='fp16'.*: plan again"):
        plan.check(schema)


def test_a_plan_of_1000_tables_on_128_shards_each_in_many_slices_is_found_complete() -> None:
    schema = schema_of([(12_800, 4)] * 1000)
    assignments = [Assignment(f"t{t}", (t + i) % 128, 3200 * i, 3200) for t in range(1000) for i in range(4)]
    assignments += [Assignment(f"t{t}", t % 128, 0, 100, hot=True) for t in range(1000)]
    plan = plan_of(schema, assignments, 128)
    plan.check(schema)
    plan = ShardPlan(strategy="by-hand", num_shards=128, replicas=plan.replicas, slices=plan.slices[1:])
    with pytest.raises(PlanError, match="t0"):
        plan.check(schema)


def test_a_shard_may_be_empty() -> None:
    plan = plan_of(schema_of([(3, 4)]), [Assignment("t0", 1, 0, 3)], 2)
    assert plan.slices_on(0) == ()
    assert plan.flat_size_bytes(0) == 0


@pytest.mark.parametrize("key", ["0x1", "1", "0X0000000000000000", "0x000000000000000G", 3])
def test_a_key_that_is_not_16_hexadecimal_digits_is_refused(key: object, plan: ShardPlan) -> None:
    data = plan.to_dict()
    data["slices"][0]["first_key"] = key
    with pytest.raises(ConfigError, match=r"slices\.0\.first_key"):
        ShardPlan.parse(data, source="x")


def test_finding_hot_rows_takes_memory_for_all_rows_of_their_tables() -> None:
    schema = schema_of([(6_400, 4), (640, 4)])
    hot = [Assignment("t0", 1, 0, 10, hot=True)]
    slices = assign(schema, [Assignment("t0", 0, 0, 6_400), Assignment("t1", 1, 0, 640), *hot], 2)
    plan = ShardPlan(strategy="by hand", num_shards=2, replicas=(1, 1), slices=slices)
    assert plan.row_set_bytes(schema) == 6_400 // 64 * 12
    assert [plan.row_set_bytes(schema, shard=shard) for shard in range(2)] == [0, 1_200]


def test_a_set_of_rows_takes_as_much_as_a_plan_says() -> None:
    rows = RowSet(np.arange(10), num_rows=6_400)
    assert rows._words.nbytes + rows._before.nbytes == 6_400 * ROW_SET_BYTES
