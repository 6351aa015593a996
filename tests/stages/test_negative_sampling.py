"""Models of a log with sampled negatives predict, and are measured on, the log before sampling."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from stream import Stream

from exfm.artifact.bundle import find_bundle
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.distill.config import VerticalConfig
from exfm.events.synthetic import SyntheticSource, load_synthetic
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.foundation.config import FoundationConfig
from exfm.models.ranking import RankingModel
from exfm.models.scoring import UnshardedScorer
from exfm.schema import Schema
from exfm.training.checkpoint import load_weights
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow

SAMPLED = SyntheticSource(
    num_impressions=20_000, num_users=200, num_ads=100, duration_s=432_000, negative_sampling_rate=0.2, seed=3
)


@dataclass(frozen=True)
class Trained:
    """Models of one log, and the log before sampling."""

    foundation: ModelManifest
    vertical: ModelManifest
    foundation_ratio: float
    """Sum of predictions over sum of true probabilities, on the log before sampling."""
    served_ratio: float
    """The same of the vertical model's bundle."""
    click_share: float
    """Of that log."""


def train(schema: Schema, root: Path, foundation_config: FoundationConfig, vertical_config: VerticalConfig) -> Trained:
    """Learn from the sampled log."""
    config = vertical_config.model_copy(update={"domains": (), "training": foundation_config.training})
    sampled = Stream(root=root, schema=schema, source=SAMPLED, window_length=43_200)
    [fm], [vm] = sampled.run([foundation_config], [config])
    foundation, vertical = (ModelManifest.read(Path(model.uri)) for model in (fm, vm))
    bundle = str(root / "bundle")
    make_bundle(BundleConfig(golden_candidates=20), vertical=vm, out=bundle)

    every = load_synthetic(SAMPLED.model_copy(update={"negative_sampling_rate": 1.0}))
    impressions = every.impressions.tail(SAMPLED.num_impressions // 2)  # the model of the first ones knew little
    model = RankingModel(foundation.feature_schema, foundation.model)
    load_weights(model, Path(fm.uri) / foundation.snapshots[-1].folder)
    batches = encode_examples(raw_columns(impressions.to_arrow(), model.schema), model.schema)
    true = impressions["truth_click"].sum()
    clicked = every.feedback.filter(pl.col("kind") == "click")["impression_id"].n_unique()
    return Trained(
        foundation=foundation,
        vertical=vertical,
        foundation_ratio=model.probabilities(batches)[:, 0].sum() / true,
        served_ratio=UnshardedScorer.load(Path(find_bundle(bundle))).scores(batches)[:, 0].sum() / true,
        click_share=clicked / SAMPLED.num_impressions,
    )


@pytest.fixture(scope="module")
def trained(
    stream: Stream,
    foundation_config: FoundationConfig,
    vertical_config: VerticalConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    return train(stream.schema, tmp_path_factory.mktemp("sampled"), foundation_config, vertical_config)


def test_a_model_and_what_is_served_of_it_predict_the_log_before_sampling(trained: Trained) -> None:
    assert trained.foundation_ratio == pytest.approx(1, abs=0.15)
    assert trained.served_ratio == pytest.approx(1, abs=0.15)


def test_their_figures_are_those_of_the_log_before_sampling(trained: Trained) -> None:
    for model in (trained.foundation, trained.vertical):
        found = model.overall["click"]
        assert found.base_rate == pytest.approx(trained.click_share, rel=0.1)
        assert found.calibration == pytest.approx(1, abs=0.15)
        assert np.isfinite(found.normalized_entropy or np.nan)


def test_a_log_that_hides_its_sampling_is_predicted_as_it_is(
    stream: Stream, foundation_config: FoundationConfig, vertical_config: VerticalConfig, tmp_path: Path
) -> None:
    hidden = Schema.parse(stream.schema.to_dict() | {"negative_sampling_rate": ""}, source="x")
    found = train(hidden, tmp_path, foundation_config, vertical_config)
    assert found.foundation_ratio > 2
    assert found.served_ratio > 2
