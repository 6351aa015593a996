"""Tensors on a GPU: refused where there is none, and there to the numbers of the CPU."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from plain_model import random_batches

from exfm.artifact.bundle import BundleManifest
from exfm.errors import ConfigError
from exfm.models.device import CPU, device_of
from exfm.models.scoring import Scorer, load_shard_tables
from exfm.schema import Schema

HAS_GPU = torch.cuda.is_available()


def test_the_cpu_is_always_there() -> None:
    assert device_of("cpu") == CPU


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="there is no GPU")
@pytest.mark.parametrize("num_candidates", [[5], [300], [2, 0, 3]], ids=str)
def test_a_gpu_scores_as_the_cpu_does(
    make_bundle: Callable[[Path], BundleManifest], tmp_path: Path, schema: Schema, num_candidates: list[int]
) -> None:
    manifest = make_bundle(tmp_path / "bundle")
    batches = random_batches(schema, num_candidates, seed=1)
    scores = []
    for device in (CPU, device_of("cuda")):
        scorer = Scorer.load(tmp_path / "bundle", manifest, device=device)
        pooled = []
        for shard, bags in enumerate(scorer.bags_for(batches)):
            tables = load_shard_tables(tmp_path / "bundle", manifest, shard=shard, device=device)
            pooled.append({net: tables.pooled(net, of_net) for net, of_net in bags.items()})
        assert all(of_net.device.type == device.type for of_shard in pooled for of_net in of_shard.values())
        scores.append(scorer.scores(batches, pooled, scorer.bottom(batches)))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"device is 'cuda', but torch .* finds no GPU here; set 'cpu'"):
        device_of("cuda")
