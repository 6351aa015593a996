from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_model import as_kept, plain_rows, random_batches, random_hot_rows, random_plan, row_sets

from exfm.artifact.plan import ENCODINGS, Assignment, Encoding, ShardPlan, assign, order_of_slice
from exfm.artifact.rows import first_key_of_row
from exfm.errors import BundleError, KeysOutsideSliceError, RequestError
from exfm.features.batch import Bags
from exfm.models.encoding import encode_rows
from exfm.models.lookup import KeyRouter, Lookup, LookupBags, lookups_of
from exfm.models.shard_tables import ShardTables, flatten_tables
from exfm.schema import NETS, Schema

Tables = dict[str, torch.Tensor]


def bags_of(*rows: list[int]) -> Bags:
    """Return bags of these keys."""
    keys = np.array([key for row in rows for key in row], dtype=np.uint64)
    return Bags(keys=keys, offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64))


def plan_of(schema: Schema, assignments: list[Assignment], *, encoding: Encoding = "fp32") -> ShardPlan:
    slices = assign(schema, assignments, 2, encoding=encoding)
    return ShardPlan(strategy="by-hand", num_shards=2, replicas=(1, 1), slices=slices)


def shard_tables(tables: Tables, plan: ShardPlan, schema: Schema, shard: int) -> ShardTables:
    return ShardTables(flatten_tables(tables, plan, shard=shard), plan, schema, shard=shard)


def pooled_of(shard: ShardTables, lookups: Sequence[Lookup], feature: str, *rows: list[int]) -> torch.Tensor:
    """Return the pooled embeddings of bags of these keys, of a feature with one slice on a shard; others get none."""
    (place,) = [place for place, lookup in enumerate(lookups) if lookup.feature.name == feature]
    bags = [bags_of(*(rows if place == other else [[]] * len(rows))) for other in range(len(lookups))]
    pooled_BE = shard.pooled(lookups[place].feature.net, LookupBags.of(bags))
    parts = torch.split(pooled_BE, [lookup.dim for lookup in lookups], dim=1)
    assert not any(part.any() for other, part in enumerate(parts) if other != place)
    return parts[place]


@pytest.mark.parametrize("shard", [0, 1])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_flat_tensor_holds_the_rows_of_each_slice(
    shard: int, encoding: Encoding, tables: Tables, plan: ShardPlan, schema: Schema
) -> None:
    slices = [Assignment(slice_.table, slice_.shard, slice_.first_row, slice_.num_rows) for slice_ in plan.slices]
    plan = plan_of(schema, slices, encoding=encoding)
    flat = flatten_tables(tables, plan, shard=shard).numpy().tobytes()
    assert len(flat) == plan.flat_size_bytes(shard)
    for slice_ in plan.slices_on(shard):
        rows = tables[slice_.table][slice_.first_row : slice_.first_row + slice_.num_rows]
        found = flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes]
        assert found == encode_rows(rows, encoding, table="t").numpy().tobytes()


def test_a_shards_tables_are_views_of_its_flat_tensor(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    flat = flatten_tables(tables, plan, shard=0)
    shard = ShardTables(flat, plan, schema, shard=0)
    flat.zero_()
    users = lookups_of(plan, schema, shard=0, net="user")
    assert pooled_of(shard, users, "user_id", [0, 2**64 - 1]).tolist() == [[0.0] * 8]


def test_known_pooled_embeddings(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    shard = shard_tables(tables, plan, schema, 0)
    first, second, last = 0, first_key_of_row(1, 2048), 2**64 - 1
    users = lookups_of(plan, schema, shard=0, net="user")
    pooled = pooled_of(shard, users, "user_id", [first, last], [], [second, second])
    user = tables["user"]
    torch.testing.assert_close(pooled, torch.stack([user[0] + user[2047], torch.zeros(8), 2 * user[1]]))


def test_lookups_are_in_the_schemas_order_then_by_rows_and_hot_ones_last(schema: Schema) -> None:
    for seed in range(5):
        plan = random_plan(schema, num_shards=3, seed=seed)
        for net in NETS:
            names = [feature.name for feature in schema.sparse_of(net)]
            for shard in range(3):
                lookups = lookups_of(plan, schema, shard=shard, net=net)
                order = [(names.index(lookup.feature.name), *order_of_slice(lookup.slice)) for lookup in lookups]
                assert order == sorted(order)
                assert all(lookup.slice.shard == shard for lookup in lookups)


def test_every_feature_is_looked_up_in_every_slice_of_its_table(plan: ShardPlan, schema: Schema) -> None:
    found = sorted(
        (lookup.feature.name, lookup.slice.first_row)
        for shard in (0, 1) for net in NETS for lookup in lookups_of(plan, schema, shard=shard, net=net)
    )  # fmt: skip
    expected = [(f.name, s.first_row) for f in schema.sparse for s in plan.by_table()[f.table]]
    assert found == sorted(expected)


@pytest.mark.parametrize("key", [first_key_of_row(1000, 4096), 2**64 - 1])
def test_a_key_after_a_slice_is_refused(key: int, tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    shard = shard_tables(tables, plan, schema, 0)
    items = lookups_of(plan, schema, shard=0, net="item")
    pooled_of(shard, items, "item_id", [first_key_of_row(1000, 4096) - 1])  # the last it holds
    with pytest.raises(KeysOutsideSliceError) as raised:
        pooled_of(shard, items, "item_id", [0, key], [key], [5])
    assert (raised.value.table, raised.value.num_keys) == ("item", 2)
    assert isinstance(raised.value, RequestError)
    assert "feature 'item_id': 2 of 4 keys are outside 0x0000000000000000 to 0x3e7fffffffffffff" in str(raised.value)
    assert f"which this shard holds of table 'item'; the first is 0x{key:016x}" in str(raised.value)


@pytest.mark.parametrize("key", [0, first_key_of_row(1000, 4096) - 1])
def test_a_key_before_a_slice_is_refused(key: int, tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    shard = shard_tables(tables, plan, schema, 1)
    items = lookups_of(plan, schema, shard=1, net="item")
    pooled_of(shard, items, "item_id", [first_key_of_row(1000, 4096)])  # the first it holds
    with pytest.raises(KeysOutsideSliceError, match="1 of 1 keys are outside"):
        pooled_of(shard, items, "item_id", [key])


def test_no_rows_give_no_pooled_embeddings(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    users = lookups_of(plan, schema, shard=0, net="user")
    assert pooled_of(shard_tables(tables, plan, schema, 0), users, "user_id").shape == (0, 8)


@pytest.mark.parametrize("change", ["shorter", "longer", "type"])
def test_a_flat_tensor_of_another_size_or_type_is_refused(
    change: str, tables: Tables, plan: ShardPlan, schema: Schema
) -> None:
    flat = flatten_tables(tables, plan, shard=0)
    wrong = {"shorter": flat[:-1], "longer": torch.cat([flat, flat[:1]]), "type": flat.view(torch.int8)}[change]
    message = rf"the tables of shard 0 are {wrong.numel()} x {wrong.dtype}, expected {flat.numel()} x torch\.uint8"
    with pytest.raises(BundleError, match=message):
        ShardTables(wrong, plan, schema, shard=0)


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=4), max_size=5))
def test_the_slices_of_a_table_share_out_each_bag(plan: ShardPlan, rows: list[list[int]]) -> None:
    slices = plan.by_table()["item"]
    parts = KeyRouter(slices, num_rows=4096).split(bags_of(*rows))
    for index, row in enumerate(rows):
        of_bag = [bags.keys[bags.offsets[index] : bags.offsets[index + 1]].tolist() for bags in parts]
        for part, slice_ in zip(of_bag, slices, strict=True):
            first, last = int(slice_.first_key, 16), int(slice_.last_key, 16)
            assert part == [key for key in row if first <= key <= last]


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=5), st.sets(st.integers(0, 9), min_size=1, max_size=9)
)
def test_keys_of_hot_rows_go_to_the_hot_slice_alone(rows: list[list[int]], hot: set[int]) -> None:
    schema = Schema.parse(
        {
            "impression_key": "k", "event_time": {"column": "t"}, "domain": "d",
            "sparse": [{"name": "f", "net": "item", "table": "t"}], "tables": [{"name": "t", "rows": 10, "dim": 4}],
            "labels": [{"name": "l", "feedback": "f", "attribution_window": 1}],
        },
        source="x",
    )  # fmt: skip
    assignments = [Assignment("t", 0, 0, 6), Assignment("t", 1, 0, len(hot), hot=True), Assignment("t", 1, 6, 4)]
    plan = plan_of(schema, assignments)
    sets = row_sets({"t": np.array(sorted(hot))}, schema)
    bags = bags_of(*([first_key_of_row(row, 10) for row in of_bag] for of_bag in rows))
    parts = KeyRouter(plan.by_table()["t"], num_rows=10, hot_rows=sets).split(bags)
    for index, row in enumerate(rows):
        found = [
            [key * 10 // 2**64 for key in part.keys[part.offsets[index] : part.offsets[index + 1]].tolist()]
            for part in parts
        ]
        assert found == [
            [r for r in row if r < 6 and r not in hot], [r for r in row if r >= 6 and r not in hot],
            [r for r in row if r in hot],
        ]  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_hot_slice_holds_copies_of_the_hot_rows(tables: Tables, schema: Schema, encoding: Encoding) -> None:
    assignments = [Assignment(table.name, 0, 0, table.rows) for table in schema.tables]
    plan = plan_of(schema, [*assignments, Assignment("user", 1, 0, 3, hot=True)], encoding=encoding)
    hot_rows = {"user": np.array([5, 6, 2047])}
    flat = flatten_tables(tables, plan, shard=1, hot_rows=hot_rows)
    shard = ShardTables(flat, plan, schema, shard=1, hot_rows=row_sets(hot_rows, schema))
    keys = [first_key_of_row(row, 2048) for row in (2047, 5, 6)]
    pooled = pooled_of(shard, lookups_of(plan, schema, shard=1, net="user"), "user_id", [keys[0]], keys[1:])
    user = as_kept(tables["user"], encoding)
    torch.testing.assert_close(pooled, torch.stack([user[2047], user[5] + user[6]]))


def test_a_cold_key_is_outside_a_hot_slice(tables: Tables, schema: Schema) -> None:
    assignments = [Assignment(table.name, 0, 0, table.rows) for table in schema.tables]
    plan = plan_of(schema, [*assignments, Assignment("user", 1, 0, 3, hot=True)])
    hot_rows = {"user": np.array([5, 6, 2047])}
    flat = flatten_tables(tables, plan, shard=1, hot_rows=hot_rows)
    shard = ShardTables(flat, plan, schema, shard=1, hot_rows=row_sets(hot_rows, schema))
    hot, cold = first_key_of_row(6, 2048), first_key_of_row(7, 2048)
    message = (
        f"1 of 2 keys are outside the 3 hot rows, which this shard holds of table 'user'; the first is 0x{cold:016x}"
    )
    with pytest.raises(KeysOutsideSliceError, match=message):
        pooled_of(shard, lookups_of(plan, schema, shard=1, net="user"), "user_id", [hot, cold])


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from(ENCODINGS))
def test_a_shard_holds_all_keys_that_its_slices_own(
    schema: Schema, tables: Tables, seed: int, num_shards: int, encoding: Encoding
) -> None:
    plan = random_plan(schema, num_shards=num_shards, seed=seed, encoding=encoding)
    kept = {name: as_kept(table, encoding) for name, table in tables.items()}
    hot_rows = random_hot_rows(plan, schema, seed=seed)
    sets = row_sets(hot_rows, schema)
    shards = [
        ShardTables(
            flatten_tables(tables, plan, shard=shard, hot_rows=hot_rows), plan, schema, shard=shard, hot_rows=sets
        )
        for shard in range(num_shards)
    ]
    batches = random_batches(schema, [2, 0, 3], seed=seed)
    for net in NETS:
        num_rows, totals = batches.of(net).num_rows, {}
        bags: list[list[Bags]] = [[] for _ in shards]
        for feature in schema.sparse_of(net):
            slices, of_feature = plan.by_table()[feature.table], batches.of(net).bags[feature.name]
            router = KeyRouter(slices, num_rows=schema.table(feature.table).rows, hot_rows=sets)
            for slice_, part in zip(slices, router.split(of_feature), strict=True):
                bags[slice_.shard].append(part)
            totals[feature.name] = torch.zeros(num_rows, schema.table(feature.table).dim)
        for number, shard in enumerate(shards):
            lookups = lookups_of(plan, schema, shard=number, net=net)
            if not lookups:
                continue
            pooled_BE = shard.pooled(net, LookupBags.of(bags[number]))
            for lookup, part_BE in zip(
                lookups, torch.split(pooled_BE, [lookup.dim for lookup in lookups], dim=1), strict=True
            ):
                totals[lookup.feature.name] += part_BE
        for feature in schema.sparse_of(net):
            of_feature, table = batches.of(net).bags[feature.name], schema.table(feature.table)
            expected = torch.nn.functional.embedding_bag(
                plain_rows(of_feature, table.rows), kept[table.name], torch.from_numpy(of_feature.offsets),
                mode="sum", include_last_offset=True,
            )  # fmt: skip
            torch.testing.assert_close(totals[feature.name], expected)
