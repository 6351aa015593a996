"""A small run by the real stages: synthetic ads, a foundation model, two vertical models, a bundle of the first."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_run import WARMUP_WINDOWS, Run

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE
from exfm.artifact.storage import ref_to
from exfm.bundling.stage import BundleConfig, make_bundle
from exfm.das.join import join_examples
from exfm.das.labels import make_labels
from exfm.das.pseudo_labels import make_pseudo_labels
from exfm.distill.config import VerticalConfig
from exfm.distill.stage import train_vertical
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.events.stage import ingest
from exfm.events.synthetic import SyntheticSource
from exfm.foundation.config import FoundationConfig
from exfm.foundation.stage import train_foundation
from exfm.models.network import NetworkConfig
from exfm.models.ranking import ModelConfig
from exfm.report.summary import Summary
from exfm.schema import Schema
from exfm.training.config import TrainingConfig

SCHEMA = Path(__file__).parents[2] / "examples" / "synthetic" / "schema.yaml"
DAY_S = 86_400
SMALL = NetworkConfig(bottom_units=(), num_cross_layers=1, cross_rank=4, top_units=(8,))


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with two foundation models, of which `clicks` teaches clicks only.

    Vertical model `video` has so long a warm-up that none of its windows counts.
    """
    root = tmp_path_factory.mktemp("run")

    def at(folder: str) -> str:
        return str(root / folder)

    source = SyntheticSource(num_impressions=3_000, num_users=100, num_ads=50)
    ingest(source, schema=Schema.read(SCHEMA), window_length=4 * DAY_S, out=at("events"))
    events = ref_to(at("events"))
    make_labels(events, out=at("labels"))
    labels = ref_to(at("labels"))
    model = ModelConfig(network=SMALL, dim_factor=10)
    for fm in (FoundationConfig(model=model), FoundationConfig(name="clicks", model=model, tasks=("click",))):
        train_foundation(fm, events=events, labels=labels, out=at(fm.name))
        make_pseudo_labels(events=events, foundation=ref_to(at(fm.name)), out=at(f"pseudo/{fm.name}"))
    pseudo_labels = [ref_to(at(f"pseudo/{name}")) for name in ("fm", "clicks")]
    join_examples(events=events, labels=labels, pseudo_labels=pseudo_labels, out=at("joined"))
    examples = ref_to(at("joined"))
    search, video = (
        VerticalConfig(
            name=name,
            domains=(name,),
            model=ModelConfig(network=SMALL),
            training=TrainingConfig(warmup_windows=warmup_windows),
        )
        for name, warmup_windows in (("search", WARMUP_WINDOWS), ("video", 99))
    )
    for vertical in (search, video):
        train_vertical(vertical, teachers=("fm",), examples=examples, out=at(f"vm/{vertical.name}"))
    untuned = ComparisonConfig(
        methods=("label", "auto"), num_seeds=1, weights=(), learning_rates=(), num_bootstrap_samples=100
    )
    compare(
        untuned,
        name="tiny",
        verticals=[search],
        teachers={"search": ("fm",)},
        examples=examples,
        out=at("comparison.json"),
    )
    verticals = (ref_to(at("vm/search")), ref_to(at("vm/video")))
    bundle = make_bundle(BundleConfig(golden_candidates=30), vertical=verticals[0], out=at("bundle/search"))
    folder = root / "bundle/search" / bundle.bundle_id
    return Run(
        root=root,
        foundations=(ref_to(at("fm")), ref_to(at("clicks"))),
        verticals=verticals,
        comparison=at("comparison.json"),
        bundles=(ref_to(str(folder)),),
        registrations=(
            {
                "name": "search",
                "version": "7",
                "aliases": ["candidate"],
                "bundle": ref_to(str(folder)).to_dict(),
                "bundle_id": bundle.bundle_id,
            },
        ),
        smoke_test={
            "model_name": "search",
            "bundle_id": bundle.bundle_id,
            "num_shards": 2,
            "max_abs_difference": 0.0,
            "latency_ms": 3.5,
            "request": _read(folder / GOLDEN_REQUEST),
            "answer": _read(folder / GOLDEN_RESPONSE),
        },
    )


@pytest.fixture(scope="session")
def summary(run: Run) -> Summary:
    """Return the summary of the run, whose report lies in the run's root."""
    return run.report(run.root)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
