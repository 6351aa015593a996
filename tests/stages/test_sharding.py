"""Tables go to shards, and a bundle says where."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream import Stream

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest
from exfm.artifact.storage import Ref
from exfm.errors import PlanError
from exfm.models.offline import answer_request
from exfm.schema import Schema
from exfm.sharding.config import BundleConfig, ShardingConfig
from exfm.sharding.planner import plan_by_size
from exfm.sharding.stage import make_bundle


def schema_of(sizes: list[tuple[int, int]]) -> Schema:
    """Return a schema with a feature for each table of these rows and dims."""
    names = [f"t{index}" for index in range(len(sizes))]
    return Schema.parse(
        {
            "impression_key": "id",
            "event_time": {"column": "time"},
            "domain": "domain",
            "sparse": [{"name": f"f_{name}", "net": "item", "table": name} for name in names],
            "tables": [
                {"name": name, "rows": rows, "dim": dim} for name, (rows, dim) in zip(names, sizes, strict=True)
            ],
            "labels": [{"name": "good", "feedback": "good", "attribution_window": 1}],
        },
        source="test",
    )


tables = st.lists(st.tuples(st.integers(1, 10_000), st.sampled_from([4, 8, 64])), min_size=1, max_size=12)


@given(sizes=tables, num_shards=st.integers(1, 6))
def test_a_plan_places_every_row_once_and_evens_out_the_bytes(sizes: list[tuple[int, int]], num_shards: int) -> None:
    num_shards = min(num_shards, len(sizes))
    schema = schema_of(sizes)
    plan = plan_by_size(schema, ShardingConfig(num_shards=num_shards)).check(schema)
    loads = [sum(slice_.size_bytes for slice_ in plan.slices_on(shard)) for shard in range(num_shards)]
    total, largest = sum(loads), max(slice_.size_bytes for slice_ in plan.slices)
    # Graham's list scheduling bound; what no plan can beat is max(total / shards, largest table).
    assert max(loads) <= total / num_shards + largest * (1 - 1 / num_shards) + 1
    assert min(loads) > 0


def test_the_largest_tables_part_company() -> None:
    plan = plan_by_size(schema_of([(100, 4), (90, 4), (20, 4), (10, 4)]), ShardingConfig(num_shards=2))
    assert [{s.table for s in plan.slices_on(shard)} for shard in range(2)] == [{"t0", "t3"}, {"t1", "t2"}]


def test_a_table_larger_than_a_shard_is_refused_with_the_numbers() -> None:
    config = ShardingConfig(num_shards=1, shard_memory_gib=2**-20)
    with pytest.raises(PlanError, match="table 't0' needs 1616 B, but the emptiest of 1 shards has 1024 B free; raise"):
        plan_by_size(schema_of([(101, 4)]), config)


def test_more_shards_than_tables_are_refused() -> None:
    with pytest.raises(PlanError, match="3 shards for 2 tables"):
        plan_by_size(schema_of([(10, 4), (10, 4)]), ShardingConfig(num_shards=3))


def test_a_bundle_scores_its_golden_query_as_the_trained_model_did(stream: Stream, bundle: Ref) -> None:
    folder = stream.folder(bundle)
    answer = answer_request(folder, folder / GOLDEN_REQUEST)
    golden = json.loads((folder / GOLDEN_RESPONSE).read_text(encoding="utf-8"))
    [found], [expected] = answer["outputs"], golden["outputs"]
    assert found["name"] == expected["name"] == "click"
    assert found["shape"] == expected["shape"] == [20]
    np.testing.assert_allclose(found["data"], expected["data"], atol=1e-6)
    assert np.ptp(found["data"]) > 0.001, "equal scores for all would hide any mistake"


def test_a_golden_query_is_one_user_of_the_models_domain_and_distinct_items(stream: Stream, bundle: Ref) -> None:
    request = json.loads((stream.folder(bundle) / GOLDEN_REQUEST).read_text(encoding="utf-8"))
    inputs = {item["name"]: item["data"] for item in request["inputs"]}
    assert len(inputs["user_id"]) == 1
    assert len(inputs["ad_id"]) == len(set(inputs["ad_id"])) == 20


def test_a_bundle_tells_what_it_was_made_from(stream: Stream, bundle: Ref) -> None:
    manifest = BundleManifest.read(stream.folder(bundle))
    assert manifest.name == "search-ads"
    assert manifest.tasks == ("click",)
    assert manifest.lineage["fm_snapshot"].startswith("fm-")
    assert manifest.lineage["domains"] == "search"
    assert len(manifest.lineage["label_revision"]) == 64


def test_the_same_model_gives_the_same_bundle(stream: Stream, vertical: Ref, bundle: Ref, tmp_path: Path) -> None:
    config = BundleConfig(golden_candidates=20)
    again = make_bundle(config, vertical=vertical, out=str(tmp_path / "again"))
    assert again.bundle_id == BundleManifest.read(stream.folder(bundle)).bundle_id


def test_servers_of_another_user_may_read_every_file_of_a_bundle(stream: Stream, bundle: Ref) -> None:
    files = [path for path in stream.folder(bundle).rglob("*") if path.is_file()]
    assert len(files) > 4
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)
