"""A small log that went through the stages, once for all tests."""

import pytest
from stream import Stream

from exfm.artifact.bundle import find_bundle
from exfm.artifact.storage import Ref, ref_to
from exfm.bundling.config import BundleConfig
from exfm.bundling.stage import make_bundle
from exfm.das.join import join_examples
from exfm.das.labels import make_labels
from exfm.das.pseudo_labels import make_pseudo_labels
from exfm.distill.config import DistillationConfig, VerticalConfig
from exfm.distill.stage import train_vertical
from exfm.events.schemas import SYNTHETIC
from exfm.events.stage import ingest
from exfm.events.synthetic import SyntheticSource
from exfm.foundation.config import FoundationConfig
from exfm.foundation.stage import train_foundation
from exfm.models.config import ModelConfig, NetworkConfig
from exfm.schema import Schema
from exfm.training.config import TrainingConfig

SMALL_MODEL = ModelConfig(network=NetworkConfig(bottom_units=(4,), num_cross_layers=1, cross_rank=4, top_units=(8,)))


@pytest.fixture(scope="session")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Return 4,000 impressions of five days in ten windows, labelled."""
    root = tmp_path_factory.mktemp("stream")
    schema = Schema.read(SYNTHETIC)
    source = SyntheticSource(
        kind="synthetic", num_impressions=4000, num_users=200, num_ads=100, duration_s=432_000, seed=1
    )
    ingest(source, schema=schema, window_length=43_200, out=str(root / "events"))
    events = ref_to(str(root / "events"))
    make_labels(events, out=str(root / "labels"))
    return Stream(root=root, schema=schema, events=events, labels=ref_to(str(root / "labels")))


@pytest.fixture(scope="session")
def foundation_config() -> FoundationConfig:
    """Return a small foundation model for a label that is soon known, so that snapshots are ready early."""
    return FoundationConfig(
        name="fm",
        tasks=("click",),
        model=SMALL_MODEL.model_copy(update={"dim_factor": 2}),
        training=TrainingConfig(batch_size=32, learning_rate=0.005, warmup_windows=2),
    )


@pytest.fixture(scope="session")
def foundation(stream: Stream, foundation_config: FoundationConfig) -> Ref:
    """Return that model, trained on the stream."""
    out = str(stream.root / "fm")
    train_foundation(foundation_config, events=stream.events, labels=stream.labels, out=out)
    return ref_to(out)


@pytest.fixture(scope="session")
def examples(stream: Stream, foundation: Ref) -> Ref:
    """Return the stream's examples with that model's pseudo-labels."""
    pseudo, out = str(stream.root / "pseudo"), str(stream.root / "examples")
    make_pseudo_labels(events=stream.events, foundation=foundation, out=pseudo)
    join_examples(events=stream.events, labels=stream.labels, pseudo_labels=[ref_to(pseudo)], out=out)
    return ref_to(out)


@pytest.fixture(scope="session")
def vertical_config() -> VerticalConfig:
    return VerticalConfig(
        name="search-ads",
        domains=("search",),
        tasks=("click",),
        model=SMALL_MODEL,
        training=TrainingConfig(batch_size=64, warmup_windows=2),
        distillation=DistillationConfig(method="ah"),
    )


@pytest.fixture(scope="session")
def vertical(stream: Stream, examples: Ref, vertical_config: VerticalConfig) -> Ref:
    """Return a vertical model of one domain, taught by that foundation model."""
    out = str(stream.root / "vm")
    train_vertical(vertical_config, teachers=("fm",), examples=examples, out=out)
    return ref_to(out)


@pytest.fixture(scope="session")
def bundle(stream: Stream, vertical: Ref) -> Ref:
    """Return that vertical model's bundle on two shards."""
    out = str(stream.root / "bundle")
    make_bundle(BundleConfig(golden_candidates=20), vertical=vertical, out=out)
    return ref_to(find_bundle(out))
