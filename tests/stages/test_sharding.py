"""A vertical model becomes a bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from stream import Stream

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE, BundleManifest, find_bundle
from exfm.artifact.manifest import write_json
from exfm.artifact.plan import Assignment, Encoding, assign
from exfm.artifact.storage import Ref
from exfm.bundling.config import BundleConfig
from exfm.bundling.golden import write_golden
from exfm.bundling.stage import SCORE_SHIFT, headline, make_bundle, statistics_of_model
from exfm.distill.config import VerticalConfig
from exfm.errors import BundleError, PlanError, StorageError
from exfm.events.examples import ExampleTable
from exfm.models.config import Interaction, ModelConfig, NetworkConfig
from exfm.models.offline import answer_request
from exfm.planning.config import Demand, ShardingConfig
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.counted import Counted
from exfm.planning.planner import make_plan
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow


def test_a_bundle_scores_its_golden_query_as_it_did_when_it_was_made(bundle: Ref) -> None:
    folder = Path(bundle.uri)
    answer = answer_request(folder, folder / GOLDEN_REQUEST)
    golden = json.loads((folder / GOLDEN_RESPONSE).read_text(encoding="utf-8"))
    [found], [expected] = answer["outputs"], golden["outputs"]
    assert found["name"] == expected["name"] == "click"
    assert found["shape"] == expected["shape"] == [20]
    np.testing.assert_allclose(found["data"], expected["data"], atol=1e-6)
    assert np.ptp(found["data"]) > 0.001, "equal scores for all would hide any mistake"


@pytest.mark.parametrize("encoding", ["fp32", "fp16", "int8"])
def test_a_bundle_says_how_far_its_tables_move_the_trained_models_scores(
    encoding: Encoding, vertical: Ref, tmp_path: Path
) -> None:
    config = BundleConfig(golden_candidates=20, sharding=ShardingConfig(encoding=encoding))
    manifest = make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))
    least, most = {"fp32": (0, 1e-6), "fp16": (1e-8, 1e-3), "int8": (1e-6, 5e-3)}[encoding]
    assert least <= float(manifest.lineage[SCORE_SHIFT]) <= most
    assert headline(manifest).endswith(f"; scores within {manifest.lineage[SCORE_SHIFT]} of the model's")
    assert manifest.plan.encoding == encoding


@pytest.mark.parametrize("change", [0.03, float("nan")])
def test_a_bundle_whose_tables_change_what_it_scores_is_refused(change: float, bundle: Ref, tmp_path: Path) -> None:
    folder = Path(bundle.uri)
    manifest = BundleManifest.read(folder)
    request = json.loads((folder / GOLDEN_REQUEST).read_text(encoding="utf-8"))
    scores = np.array([json.loads((folder / GOLDEN_RESPONSE).read_text(encoding="utf-8"))["outputs"][0]["data"]]).T
    scores[7] += change
    with pytest.raises(BundleError, match=r"in int8, task 'click' .* for item 7, .*: more than 0.02 apart; set shard"):
        write_golden(folder, manifest, request, trained_NT=scores)


@pytest.mark.parametrize("interaction", ["deepfm", "dlrm"])
def test_a_bundle_says_its_interaction_and_scores_as_its_model(
    interaction: Interaction, stream: Stream, examples: ExampleTable, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    network = NetworkConfig(interaction=interaction, bottom_units=(4,), top_units=(8,))
    model = ModelConfig(network=network)
    vertical = stream.learn(vertical_config.model_copy(update={"name": interaction, "model": model}), teachers=("fm",))
    settings = BundleConfig(golden_candidates=20, sharding=ShardingConfig(encoding="fp32"))
    manifest = make_bundle(settings, vertical=vertical, out=str(tmp_path / "bundle"))
    assert manifest.network == {"interaction": interaction, "bottom_units": [4], "top_units": [8]}
    assert float(manifest.lineage[SCORE_SHIFT]) <= 1e-6


def test_a_golden_query_is_one_user_of_the_models_domain_and_distinct_items(bundle: Ref) -> None:
    request = json.loads((Path(bundle.uri) / GOLDEN_REQUEST).read_text(encoding="utf-8"))
    inputs = {item["name"]: item["data"] for item in request["inputs"]}
    assert len(inputs["user_id"]) == 1
    assert len(inputs["ad_id"]) == len(set(inputs["ad_id"])) == 20


def test_a_bundle_tells_what_it_was_made_from(
    stream: Stream, examples: ExampleTable, vertical: Ref, bundle: Ref
) -> None:
    manifest = BundleManifest.read(Path(bundle.uri))
    assert manifest.name == "search-ads"
    assert manifest.tasks == ("click",)
    [made_last] = examples.read(examples.windows[-1])["pseudo_snapshot.fm"].unique()
    assert manifest.lineage["fm_snapshot"] == made_last
    assert manifest.lineage["domains"] == "search"
    model = ModelManifest.read(Path(vertical.uri))
    assert manifest.lineage["examples"] == f"version {model.tables['examples'].version}"
    assert str(stream.root) not in json.dumps(manifest.lineage), "a bundle's id is the same on all machines"


def test_the_same_model_gives_the_same_bundle(vertical: Ref, bundle: Ref, tmp_path: Path) -> None:
    config = BundleConfig(golden_candidates=20)
    again = make_bundle(config, vertical=vertical, out=str(tmp_path / "again"))
    assert again.bundle_id == BundleManifest.read(Path(bundle.uri)).bundle_id


def test_a_models_bundles_lie_side_by_side_and_none_is_written_again(
    stream: Stream, examples: ExampleTable, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    out, found = tmp_path / "bundles", []
    for learning_rate in (0.001, 0.002):  # other weights
        training = vertical_config.training.model_copy(update={"learning_rate": learning_rate})
        config = vertical_config.model_copy(update={"name": "two-bundles", "training": training})
        vertical = stream.learn(config, teachers=("fm",))
        manifest = make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(out))
        assert find_bundle(str(out)) == str(out / manifest.bundle_id)
        found.append(manifest)
        if len(found) == 1:
            before = contents(out / manifest.bundle_id)
    assert sorted(path.name for path in out.iterdir()) == sorted([*(one.bundle_id for one in found), "latest.json"])
    assert contents(out / found[0].bundle_id) == before
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(out))
    assert len(list(out.iterdir())) == 3, "the same bundle again is no other one"


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return each file's content and when it was written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_servers_of_another_user_may_read_every_file_of_a_bundle(bundle: Ref) -> None:
    files = [path for path in Path(bundle.uri).rglob("*") if path.is_file()]
    assert len(files) > 4
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)


def test_a_models_tables_are_counted_on_the_examples_of_its_domain(vertical: Ref) -> None:
    statistics = statistics_of_model(vertical, candidates_mean=50).statistics
    assert 0 < statistics.num_requests < 4000
    assert statistics.candidates_mean == 50
    assert all(table.skew for table in statistics.tables if table.keys_per_request)


def test_a_model_wider_than_its_schema_is_bundled(
    stream: Stream, examples: ExampleTable, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    wide = vertical_config.model.model_copy(update={"dim_factor": 2})
    config = vertical_config.model_copy(update={"name": "wide", "model": wide})
    vertical = stream.learn(config, teachers=("fm",))
    manifest = make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=str(tmp_path / "bundle"))
    dims = [2 * table.dim for table in stream.schema.select(tasks=config.tasks).tables]
    assert [table.dim for table in manifest.feature_schema.tables] == dims
    counted = statistics_of_model(vertical, candidates_mean=100).statistics
    assert [table.dim for table in counted.tables] == dims


def test_a_bundle_is_planned_with_statistics_that_were_counted_before(
    vertical: Ref, bundle: Ref, tmp_path: Path
) -> None:
    config = BundleConfig(golden_candidates=20, table_statistics=str(tmp_path / "counted"))
    with pytest.raises(StorageError, match="counted"):
        make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))
    statistics_of_model(vertical, candidates_mean=100).write(config.table_statistics)
    manifest = make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))
    assert manifest == BundleManifest.read(Path(bundle.uri))


def test_a_bundle_takes_the_plan_that_its_settings_name_for_its_model(
    vertical: Ref, bundle: Ref, tmp_path: Path
) -> None:
    made = BundleManifest.read(Path(bundle.uri))
    planned = make_plan(
        made.feature_schema,
        statistics_of_model(vertical, candidates_mean=100).statistics,
        ShardingConfig(strategy="load-balanced", num_shards=3),
        DEFAULT_COSTS,
    )
    write_json(tmp_path / f"{made.name}.json", planned.to_dict())
    config = BundleConfig(golden_candidates=20, plan=str(tmp_path / "{model}.json"))
    assert make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle")).plan == planned


def test_a_plan_for_another_model_leaves_no_bundle(vertical: Ref, bundle: Ref, tmp_path: Path) -> None:
    plan = BundleManifest.read(Path(bundle.uri)).plan
    fewer = plan.model_copy(update={"slices": plan.slices[1:]})
    write_json(tmp_path / "plan.json", fewer.to_dict())
    config = BundleConfig(golden_candidates=20, plan=str(tmp_path / "plan.json"))
    with pytest.raises(PlanError, match=plan.slices[0].table):
        make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))
    assert not list((tmp_path / "bundle").iterdir())


def test_statistics_of_other_tables_leave_no_bundle_though_its_plan_is_named(
    vertical: Ref, bundle: Ref, tmp_path: Path
) -> None:
    plan = BundleManifest.read(Path(bundle.uri)).plan
    write_json(tmp_path / "plan.json", plan.to_dict())
    counted = statistics_of_model(vertical, candidates_mean=100)
    first, *others = counted.statistics.tables
    grown = first.model_copy(update={"rows": first.rows + 1})
    statistics = counted.statistics.model_copy(update={"tables": (grown, *others)})
    Counted(statistics, counted.hottest).write(str(tmp_path / "counted"))
    config = BundleConfig(
        golden_candidates=20, plan=str(tmp_path / "plan.json"), table_statistics=str(tmp_path / "counted")
    )
    with pytest.raises(
        PlanError, match=f"{first.name!r} has {first.rows} rows .* but was counted with {first.rows + 1}"
    ):
        make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))


def test_a_bundle_moves_few_bytes_from_the_one_before(vertical: Ref, bundle: Ref, tmp_path: Path) -> None:
    before = BundleManifest.read(Path(bundle.uri))
    swapped = assign(
        before.feature_schema,
        [Assignment(s.table, 1 - s.shard, s.first_row, s.num_rows) for s in before.plan.slices],
        2,
        encoding=before.plan.encoding,
    )
    old = before.plan.model_copy(update={"slices": swapped})
    write_json(tmp_path / "old.json", old.to_dict())
    config = BundleConfig(golden_candidates=20, previous_plan=str(tmp_path / "old.json"))
    found = make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))
    assert found.plan.slices == old.slices
    assert "; moves 0 B (a plan from scratch: 0 B; at least: 0 B)" in headline(found)


def test_a_bundle_is_planned_by_the_costs_that_its_settings_name(vertical: Ref, tmp_path: Path) -> None:
    sharding = ShardingConfig(strategy="auto", demand=Demand(requests_per_s=1000))
    dear = DEFAULT_COSTS.to_dict()
    dear["shard"]["call_us"] *= 20
    (tmp_path / "costs.yaml").write_text(json.dumps(dear))
    config = BundleConfig(golden_candidates=20, sharding=sharding)
    cheap = make_bundle(config, vertical=vertical, out=str(tmp_path / "cheap"))
    with_costs = config.model_copy(update={"costs": str(tmp_path / "costs.yaml")})
    found = make_bundle(with_costs, vertical=vertical, out=str(tmp_path / "dear"))
    assert sum(found.plan.replicas) > sum(cheap.plan.replicas)


def test_a_plan_and_one_to_move_from_are_not_named_together() -> None:
    with pytest.raises(
        ValidationError, match=r"plan a\.json is used as it is, so previous_plan b\.json has no effect; leave out one"
    ):
        BundleConfig(plan="a.json", previous_plan="b.json")


def test_tables_that_do_not_fit_their_shards_leave_no_bundle(vertical: Ref, tmp_path: Path) -> None:
    config = BundleConfig(sharding=ShardingConfig(num_shards=1, shard_memory_gib=2**-20))
    with pytest.raises(PlanError, match="shard_memory_gib"):
        make_bundle(config, vertical=vertical, out=str(tmp_path / "bundle"))
    assert not list((tmp_path / "bundle").iterdir())


def test_a_bundles_headline_tells_tables_and_shards(bundle: Ref) -> None:
    manifest = BundleManifest.read(Path(bundle.uri))
    num_tables = len(manifest.feature_schema.tables)
    assert headline(manifest).startswith(f"search-ads: {num_tables} tables in int8 on 2 shards (")
