import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_model import plain_rows, random_batches, random_plan

from exfm.artifact.plan import ShardPlan
from exfm.artifact.rows import first_key_of_row
from exfm.errors import BundleError, RequestError
from exfm.features.batch import Bags
from exfm.models.lookup import KeysOutsideSliceError, Lookup, ShardTables, flatten_tables, lookups_of, owned_bags
from exfm.schema import NETS, Schema

Tables = dict[str, torch.Tensor]


def bags_of(*rows: list[int]) -> Bags:
    """Return bags of these keys."""
    keys = np.array([key for row in rows for key in row], dtype=np.uint64)
    return Bags(keys=keys, offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64))


def shard_tables(tables: Tables, plan: ShardPlan, schema: Schema, shard: int) -> ShardTables:
    return ShardTables(flatten_tables(tables, plan, shard=shard), plan, schema, shard=shard)


def lookup_of(plan: ShardPlan, schema: Schema, shard: int, feature: str) -> Lookup:
    (found,) = [
        lookup for net in NETS for lookup in lookups_of(plan, schema, shard=shard, net=net)
        if lookup.feature.name == feature
    ]  # fmt: skip
    return found


@pytest.mark.parametrize("shard", [0, 1])
def test_the_flat_tensor_holds_the_rows_of_each_slice(
    shard: int, tables: Tables, plan: ShardPlan, schema: Schema
) -> None:
    flat = flatten_tables(tables, plan, shard=shard).numpy().tobytes()
    assert len(flat) == plan.flat_size_bytes(shard)
    for slice_ in plan.slices_on(shard):
        rows = tables[slice_.table][slice_.first_row : slice_.first_row + slice_.num_rows]
        found = flat[slice_.offset_bytes : slice_.offset_bytes + slice_.size_bytes]
        assert found == rows.numpy().tobytes()


def test_a_shards_tables_are_views_of_its_flat_tensor(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    flat = flatten_tables(tables, plan, shard=0)
    shard = ShardTables(flat, plan, schema, shard=0)
    lookup = lookup_of(plan, schema, 0, "user_id")
    flat.zero_()
    assert shard.sums([lookup], [bags_of([0, 2**64 - 1])], num_rows=1).tolist() == [[0.0] * 8]


def test_known_sums(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    shard = shard_tables(tables, plan, schema, 0)
    first, second, last = 0, first_key_of_row(1, 2048), 2**64 - 1
    sums = shard.sums(
        [lookup_of(plan, schema, 0, "user_id")], [bags_of([first, last], [], [second, second])], num_rows=3
    )
    user = tables["user"]
    torch.testing.assert_close(sums, torch.stack([user[0] + user[2047], torch.zeros(8), 2 * user[1]]))


def test_lookups_are_in_the_schemas_order_then_by_rows(schema: Schema) -> None:
    for seed in range(5):
        plan = random_plan(schema, num_shards=3, seed=seed)
        for net in NETS:
            names = [feature.name for feature in schema.sparse_of(net)]
            for shard in range(3):
                lookups = lookups_of(plan, schema, shard=shard, net=net)
                order = [(names.index(lookup.feature.name), lookup.slice.first_row) for lookup in lookups]
                assert order == sorted(order)
                assert all(lookup.slice.shard == shard for lookup in lookups)


def test_every_feature_is_looked_up_in_every_slice_of_its_table(plan: ShardPlan, schema: Schema) -> None:
    found = sorted(
        (lookup.feature.name, lookup.slice.first_row)
        for shard in (0, 1) for net in NETS for lookup in lookups_of(plan, schema, shard=shard, net=net)
    )  # fmt: skip
    expected = [(f.name, s.first_row) for f in schema.sparse for s in plan.slices_of(f.table)]
    assert found == sorted(expected)


@pytest.mark.parametrize("key", [first_key_of_row(1000, 4096), 2**64 - 1])
def test_a_key_after_a_slice_is_refused(key: int, tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    shard = shard_tables(tables, plan, schema, 0)
    lookup = lookup_of(plan, schema, 0, "item_id")
    shard.sums([lookup], [bags_of([first_key_of_row(1000, 4096) - 1])], num_rows=1)  # the last it holds
    with pytest.raises(KeysOutsideSliceError) as raised:
        shard.sums([lookup], [bags_of([0, key], [key], [5])], num_rows=3)
    assert (raised.value.table, raised.value.num_keys) == ("item", 2)
    assert isinstance(raised.value, RequestError)
    assert "feature 'item_id': 2 of 4 keys are outside 0x0000000000000000 to 0x3e7fffffffffffff" in str(raised.value)
    assert f"which this shard holds of table 'item'; the first is 0x{key:016x}" in str(raised.value)


@pytest.mark.parametrize("key", [0, first_key_of_row(1000, 4096) - 1])
def test_a_key_before_a_slice_is_refused(key: int, tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    shard = shard_tables(tables, plan, schema, 1)
    lookup = lookup_of(plan, schema, 1, "item_id")
    shard.sums([lookup], [bags_of([first_key_of_row(1000, 4096)])], num_rows=1)  # the first it holds
    with pytest.raises(KeysOutsideSliceError, match="1 of 1 keys are outside"):
        shard.sums([lookup], [bags_of([key])], num_rows=1)


def test_no_lookups_give_no_columns(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    assert shard_tables(tables, plan, schema, 0).sums([], [], num_rows=3).shape == (3, 0)


def test_no_rows_give_no_sums(tables: Tables, plan: ShardPlan, schema: Schema) -> None:
    lookup = lookup_of(plan, schema, 0, "user_id")
    assert shard_tables(tables, plan, schema, 0).sums([lookup], [bags_of()], num_rows=0).shape == (0, 8)


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
    slices = plan.slices_of("item")
    owned = [owned_bags(bags_of(*rows), slice_) for slice_ in slices]
    for index, row in enumerate(rows):
        parts = [bags.keys[bags.offsets[index] : bags.offsets[index + 1]].tolist() for bags in owned]
        for part, slice_ in zip(parts, slices, strict=True):
            first, last = int(slice_.first_key, 16), int(slice_.last_key, 16)
            assert part == [key for key in row if first <= key <= last]
        assert sorted(key for part in parts for key in part) == sorted(row)


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_a_shard_holds_all_keys_that_its_slices_own(schema: Schema, tables: Tables, seed: int, num_shards: int) -> None:
    plan = random_plan(schema, num_shards=num_shards, seed=seed)
    batches = random_batches(schema, [2, 0, 3], seed=seed)
    for net in NETS:
        total = {feature.name: torch.zeros(1) for feature in schema.sparse_of(net)}
        for shard in range(num_shards):
            lookups = lookups_of(plan, schema, shard=shard, net=net)
            bags = [owned_bags(batches.of(net).bags[lookup.feature.name], lookup.slice) for lookup in lookups]
            sums = shard_tables(tables, plan, schema, shard).sums(lookups, bags, num_rows=batches.of(net).num_rows)
            for lookup, part in zip(lookups, sums.split(8, dim=1), strict=bool(lookups)):
                total[lookup.feature.name] = total[lookup.feature.name] + part
        for feature in schema.sparse_of(net):
            bags_all = batches.of(net).bags[feature.name]
            rows = plain_rows(bags_all, schema.table(feature.table).rows)
            expected = torch.nn.functional.embedding_bag(
                rows, tables[feature.table], torch.from_numpy(bags_all.offsets), mode="sum", include_last_offset=True
            )
            torch.testing.assert_close(total[feature.name], expected)
