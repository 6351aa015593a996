"""A small run: synthetic ads, a foundation model, two vertical models, a bundle of the first."""

import json
from pathlib import Path
from typing import Any

import pytest
from report_run import WARMUP_WINDOWS, Run

from exfm.artifact.bundle import GOLDEN_REQUEST, GOLDEN_RESPONSE
from exfm.artifact.storage import ref_to
from exfm.bundling.stage import BundleConfig, make_bundle
from exfm.das.advance import advance
from exfm.das.closing import LogState
from exfm.das.joining import example_table
from exfm.das.log_tables import Das
from exfm.das.publishing import publish
from exfm.distill.config import VerticalConfig
from exfm.distill.line import vertical_line
from exfm.evaluation.config import ComparisonConfig
from exfm.evaluation.stage import compare
from exfm.events.synthetic import SyntheticSource
from exfm.foundation.config import FoundationConfig
from exfm.foundation.line import foundation_line
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

    schema, source = Schema.read(SCHEMA), SyntheticSource(num_impressions=3_000, num_users=100, num_ads=50)
    das = Das(root=str(root), schema=schema, window_length=4 * DAY_S)
    model = ModelConfig(network=SMALL, dim_factor=10)
    fms = {
        fm.name: foundation_line(fm, schema)
        for fm in (FoundationConfig(model=model), FoundationConfig(name="clicks", model=model, tasks=("click",)))
    }
    search, video = (
        VerticalConfig(
            name=name,
            domains=(name,),
            model=ModelConfig(network=SMALL),
            training=TrainingConfig(warmup_windows=warmup_windows),
        )
        for name, warmup_windows in (("search", WARMUP_WINDOWS), ("video", 99))
    )
    lines = [vertical_line(vertical, schema, teachers=("fm",)) for vertical in (search, video)]
    for _ in advance(das, source, foundation_models=fms, vertical_models=lines):
        pass
    foundations = {name: publish(das, line) for name, line in fms.items()}
    verticals = [publish(das, line) for line in lines]
    untuned = ComparisonConfig(
        methods=("label", "auto"), num_seeds=1, weights=(), learning_rates=(), num_bootstrap_samples=100
    )
    compare(
        untuned,
        name="tiny",
        verticals=[search],
        teachers={"search": ("fm",)},
        foundations=foundations,
        examples=example_table(LogState.of(das)),
        out=at("comparison.json"),
    )
    bundle = make_bundle(BundleConfig(golden_candidates=30), vertical=verticals[0], out=at("bundle/search"))
    folder = root / "bundle/search" / bundle.bundle_id
    return Run(
        das=das,
        source=source,
        foundations=tuple(foundations.values()),
        verticals=tuple(verticals),
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
