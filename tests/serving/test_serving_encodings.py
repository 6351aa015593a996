"""Tables in fewer bytes, split and with copies of hot rows, served as the bundle scores in one process."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from serving_bundles import seal_with_golden_scores
from serving_requests import infer_by_grpc, make_request, offline_scores, scores_of

from exfm.artifact.bundle import tables_file
from exfm.artifact.plan import Assignment, Encoding, ShardPlan, assign
from exfm.artifact.rows import rows_of_keys
from exfm.bundling.shard_files import write_shards
from exfm.errors import ServingError
from exfm.features.keys import keys_of_integers
from exfm.models.config import Precision
from exfm.models.network import DenseNetwork
from exfm.schema import Schema
from exfm.serving.config import RankerConfig, ShardConfig
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import LocalServing, serve_local

pytestmark = pytest.mark.slow

MANY = make_request(num_candidates=[7, 0, 9])


@pytest.fixture(scope="module", params=["fp16", "int8"])
def encoded_bundle(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    schema: Schema,
    tables: dict[str, torch.Tensor],
    network: DenseNetwork,
) -> Path:
    """Return a bundle whose table `item` is in two row slices and a hot one."""
    encoding: Encoding = request.param
    hot = np.unique(rows_of_keys(keys_of_integers(np.arange(0, 30, 6)), schema.table("item").rows))
    assignments = [Assignment("item", 0, 0, 1000), Assignment("item", 1, 1000, 3096)]
    assignments += [Assignment(table.name, 1, 0, table.rows) for table in schema.tables if table.name != "item"]
    slices = assign(schema, [*assignments, Assignment("item", 0, 0, len(hot), hot=True)], 2, encoding=encoding)
    plan = ShardPlan(strategy="by-hand", num_shards=2, replicas=(1, 1), slices=slices)
    folder = tmp_path_factory.mktemp(encoding) / "bundle"
    write_shards(folder, tables, plan, hottest={"item": hot})
    return seal_with_golden_scores(folder, schema, network, plan)


@pytest.fixture(scope="module")
def encoded_served(encoded_bundle: Path, start_server: Start) -> Iterator[LocalServing]:
    with serve_local(encoded_bundle, start=start_server) as serving:  # returns once they gave the golden scores
        yield serving


def test_servers_score_as_the_bundle_does_and_nearly_as_its_model(
    encoded_served: LocalServing, encoded_bundle: Path, bundle: Path
) -> None:
    for body in (make_request(), MANY):
        expected, of_model = offline_scores(encoded_bundle, body), offline_scores(bundle, body)
        for found in (scores_of(encoded_served.infer(body)), infer_by_grpc(encoded_served.grpc_address, body)):
            for task, scores in expected.items():
                np.testing.assert_allclose(found[task], scores, atol=1e-6)
                assert 0 < np.abs(np.subtract(found[task], of_model[task])).max() < 0.02


def test_pooled_embeddings_that_travel_in_half_precision_score_nearly_the_same(
    encoded_bundle: Path, start_server: Start
) -> None:
    with serve_local(encoded_bundle, shard=ShardConfig(pooled_precision="fp16"), start=start_server) as serving:
        described = httpx.get(f"{serving.shard_urls[1]}/v2/models/students-shard-1").json()["outputs"]
        assert {output["datatype"] for output in described} == {"FP16"}
        for body in (make_request(), MANY):
            found = infer_by_grpc(serving.grpc_address, body)
            for task, scores in offline_scores(encoded_bundle, body).items():
                assert 0 < np.abs(np.subtract(found[task], scores)).max() < 1e-3


@pytest.mark.parametrize(
    "precision",
    [
        "bf16",
        pytest.param(
            "int8", marks=pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no VNNI")
        ),
    ],
)
def test_dense_layers_in_another_precision_score_nearly_the_same(
    encoded_bundle: Path, precision: Precision, start_server: Start
) -> None:
    with serve_local(encoded_bundle, ranker=RankerConfig(dense_precision=precision), start=start_server) as serving:
        for body in (make_request(), make_request(num_candidates=[40]), MANY):
            found = infer_by_grpc(serving.grpc_address, body)
            for task, scores in offline_scores(encoded_bundle, body).items():
                assert 0 < np.abs(np.subtract(found[task], scores)).max() < 2e-2


def test_pooled_embeddings_beyond_half_precision_are_an_error(
    tmp_path: Path, schema: Schema, tables: dict[str, torch.Tensor], network: DenseNetwork, start_server: Start
) -> None:
    slices = assign(schema, [Assignment(table.name, 0, 0, table.rows) for table in schema.tables], 1)
    plan = ShardPlan(strategy="by-hand", num_shards=1, replicas=(1,), slices=slices)
    write_shards(tmp_path / "bundle", tables | {"item": tables["item"] + 70_000}, plan, hottest={})
    seal_with_golden_scores(tmp_path / "bundle", schema, network, plan)
    with (
        pytest.raises(ServingError, match="beyond 65,504; set the shards' `pooled_precision` to fp32"),
        serve_local(tmp_path / "bundle", shard=ShardConfig(pooled_precision="fp16"), start=start_server),
    ):
        pass


def test_their_files_are_smaller(encoded_bundle: Path, bundle: Path) -> None:
    small, large = (
        sum((one / tables_file(shard)).stat().st_size for shard in (0, 1)) for one in (encoded_bundle, bundle)
    )
    assert small < 0.6 * large
