"""A table in several slices, with copies of its hot rows on a shard of their own, answers as the whole one does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from pods import Pods
from serving_bundles import seal_with_golden_scores
from serving_requests import infer_by_grpc, make_request, offline_scores, scores_of

from exfm.artifact.bundle import tables_file
from exfm.artifact.hot_rows import HOT_ROWS_FILE, hot_rows_file
from exfm.artifact.plan import Assignment, ShardPlan, assign
from exfm.artifact.rows import Rows, rows_of_keys
from exfm.artifact.storage import MANIFEST
from exfm.bundling.shard_files import write_shards
from exfm.features.keys import keys_of_integers
from exfm.models.network import DenseNetwork
from exfm.models.shard_tables import flatten_tables
from exfm.schema import Schema
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import LocalServing, serve_local

pytestmark = pytest.mark.slow

MANY = make_request(num_candidates=[7, 0, 9])


def rows_of_ids(ids: range, num_rows: int) -> Rows:
    return rows_of_keys(keys_of_integers(np.array(ids)), num_rows)


@pytest.fixture(scope="module")
def hottest(schema: Schema) -> dict[str, Rows]:
    """Return hot rows, of which the requests want some, and others too."""
    hot = {"item": rows_of_ids(range(0, 30, 6), schema.table("item").rows), "user": rows_of_ids(range(8), 2048)}
    return {table: np.unique(rows)[::-1].copy() for table, rows in hot.items()}


@pytest.fixture(scope="module")
def hot_plan(schema: Schema, hottest: dict[str, Rows]) -> ShardPlan:
    """Return a plan with rows of two tables on two shards each, and shard 2 for copies of hot rows alone."""
    assignments = [Assignment("item", 0, 0, 1000), Assignment("item", 1, 1000, 3096)]
    assignments += [Assignment("user", 1, 0, 1024), Assignment("user", 0, 1024, 1024)]
    assignments += [Assignment(t.name, 0, 0, t.rows) for t in schema.tables if t.name not in {"item", "user"}]
    assignments += [Assignment(table, 2, 0, len(rows), hot=True) for table, rows in hottest.items()]
    return ShardPlan(strategy="by-hand", num_shards=3, replicas=(1, 1, 1), slices=assign(schema, assignments, 3))


@pytest.fixture(scope="module")
def hot_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    schema: Schema,
    tables: dict[str, torch.Tensor],
    network: DenseNetwork,
    hot_plan: ShardPlan,
    hottest: dict[str, Rows],
) -> Path:
    """Return a bundle whose rows on shards 0 and 1 are huge where they are hot, so that nobody may ask for those."""
    folder = tmp_path_factory.mktemp("hot") / "bundle"
    write_shards(folder, tables, hot_plan, hottest=hottest)
    spoilt = {name: table.clone() for name, table in tables.items()}
    for name, rows in hottest.items():
        spoilt[name][torch.from_numpy(rows)] = 1e38
    for shard in (0, 1):
        flat = flatten_tables(spoilt, hot_plan, shard=shard)
        safetensors.torch.save_file({"fp32": flat}, folder / tables_file(shard))
    return seal_with_golden_scores(folder, schema, network, hot_plan)


@pytest.fixture(scope="module")
def hot_served(hot_bundle: Path, start_server: Start) -> Iterator[LocalServing]:
    with serve_local(hot_bundle, start=start_server) as serving:
        yield serving


def test_the_requests_want_hot_rows_and_cold_ones(schema: Schema, hottest: dict[str, Rows]) -> None:
    wanted = rows_of_ids(range(0, 48, 3), schema.table("item").rows)
    assert 0 < np.isin(wanted, hottest["item"]).sum() < len(wanted)


def test_hot_and_split_tables_score_as_whole_ones_do(hot_served: LocalServing, bundle: Path) -> None:
    for body in (make_request(), MANY):
        expected = offline_scores(bundle, body)  # by another plan, without hot rows
        for found in (scores_of(hot_served.infer(body)), infer_by_grpc(hot_served.grpc_address, body)):
            for task, scores in expected.items():
                np.testing.assert_allclose(found[task], scores, atol=1e-6)


def test_a_hot_bundle_scored_in_one_process_scores_the_same(hot_bundle: Path, bundle: Path) -> None:
    for task, scores in offline_scores(hot_bundle, MANY).items():
        np.testing.assert_allclose(scores, offline_scores(bundle, MANY)[task], atol=1e-6)


def test_a_server_needs_its_own_part_of_a_hot_bundle_only(hot_bundle: Path, pods: Pods, tmp_path: Path) -> None:
    parts: dict[str | int, list[str]] = {"ranker": ["ranker", "golden"], **{i: [f"shards/{i}"] for i in range(3)}}
    for server, folders in parts.items():
        for part in folders:
            shutil.copytree(hot_bundle / part, tmp_path / str(server) / part)
        shutil.copy(hot_bundle / MANIFEST, tmp_path / str(server))
    shards = [pods.shard(tmp_path / str(shard), shard) for shard in range(3)]
    ranker = pods.ranker(tmp_path / "ranker", [shard.lookup_address for shard in shards])
    ranker.wait_until_ready()
    assert shards[2].num_lookups() >= 1


@pytest.mark.parametrize("file", [HOT_ROWS_FILE, hot_rows_file(2)])
def test_a_server_does_not_start_with_hot_rows_that_are_damaged(
    file: str, hot_bundle: Path, pods: Pods, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(hot_bundle, damaged)
    content = bytearray((damaged / file).read_bytes())
    content[-1] ^= 1
    (damaged / file).write_bytes(content)
    server = pods.ranker(damaged, ["a:1"] * 3) if file == HOT_ROWS_FILE else pods.shard(damaged, 2)
    assert server.exit_code() == 2
    assert f"error: {damaged}: {file} is damaged" in server.lines()[-1]
