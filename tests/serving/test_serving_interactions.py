"""Every interaction is served, sharded and in every precision, as its bundle scores in one process."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from serving_bundles import seal_with_golden_scores
from serving_requests import infer_by_grpc, make_request, offline_scores, scores_of

from exfm.artifact.plan import ShardPlan
from exfm.bundling.shard_files import write_shards
from exfm.models.config import Interaction, NetworkConfig, Precision
from exfm.models.network import DenseNetwork
from exfm.schema import Schema
from exfm.serving.config import RankerConfig
from exfm.serving.local.processes import Start
from exfm.serving.local.serving import serve_local

pytestmark = pytest.mark.slow

REQUESTS = [make_request(), make_request(num_candidates=[7, 0, 9]), make_request(num_candidates=[600])]
"""Of few candidates, of several users, and of one user who is met once."""


@pytest.mark.parametrize(
    "precision",
    [
        "fp32",
        "bf16",
        pytest.param(
            "int8", marks=pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this CPU has no VNNI")
        ),
    ],
)
@pytest.mark.parametrize("interaction", get_args(Interaction))
def test_servers_score_as_the_bundle_does(
    interaction: Interaction,
    precision: Precision,
    tmp_path: Path,
    schema: Schema,
    tables: dict[str, torch.Tensor],
    plan: ShardPlan,
    start_server: Start,
) -> None:
    config = NetworkConfig(interaction=interaction)
    torch.manual_seed(0)
    network = DenseNetwork(schema, config).eval()
    write_shards(tmp_path / "bundle", tables, plan, hottest={})
    seal_with_golden_scores(tmp_path / "bundle", schema, network, plan, config=config)
    with serve_local(
        tmp_path / "bundle", ranker=RankerConfig(dense_precision=precision), start=start_server
    ) as serving:
        for body in REQUESTS:
            for found in (scores_of(serving.infer(body)), infer_by_grpc(serving.grpc_address, body)):
                for task, expected in offline_scores(tmp_path / "bundle", body, precision=precision).items():
                    np.testing.assert_allclose(found[task], expected, atol=1e-6)
