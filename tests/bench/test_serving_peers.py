"""The plain model that other servers serve is the same model."""

from pathlib import Path

import numpy as np
import pytest

from exfm.errors import ConfigError
from exfm.features.request import encode_request
from exfm.models.scoring import UnshardedScorer
from exfm.planning.config import ShardingConfig
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.planner import make_plan
from exfm_bench.peers.plain_model import PlainModel
from exfm_bench.serving.models import scaled
from exfm_bench.serving.peer_servers import mlserver_peers, write_plain
from exfm_bench.workload import GENERATED, GeneratedModel

SMALL = scaled("drm3", bytes_factor=1e-5, dim_factor=0.125, network="small", seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("model", [GENERATED, SMALL], ids=["bags of users", "items"])
def test_the_plain_models_scores_are_those_of_the_bundle_in_fp32(tmp_path: Path, model: GeneratedModel) -> None:
    config = ShardingConfig(strategy="one-shard", encoding="fp32")
    plan = make_plan(model.schema(), model.statistics(candidates=7), config, DEFAULT_COSTS)
    scorer = UnshardedScorer(tmp_path / "bundle", model.write_bundle(tmp_path / "bundle", plan))
    write_plain(model, tmp_path / "plain")
    plain = PlainModel(tmp_path / "plain")
    for request in model.requests(3, candidates=7, seed=0):
        expected = scorer.scores(encode_request(request, model.schema()))[:, 0]
        found = plain.scores({name: tensor.values for name, tensor in request.items()})
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_environment_without_mlserver_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no virtual environment with MLServer; make one: python -m venv"):
        mlserver_peers(tmp_path)
