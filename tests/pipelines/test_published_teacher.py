"""A run whose foundation model another run trains: as a whole, and step by step before anything is published."""

import json
import subprocess
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from commands import exfm
from exfm.events.schemas import SYNTHETIC
from exfm.schema import Schema
from exfm.training.manifest import ModelManifest
from exfm_components.comparison import why_not_yet
from exfm_components.run_config import read_run_config

pytestmark = pytest.mark.slow

SMALL = {"network": {"bottom_units": [4], "num_cross_layers": 1, "cross_rank": 4, "top_units": [8]}}
TRAINING = {"batch_size": 128, "warmup_windows": 2}


def write_run(folder: Path, *, root: str, **foundation: Any) -> Path:
    """Write a small run's file, and return its path."""
    vertical = {"name": "search", "domains": ["search"], "model": SMALL, "training": TRAINING}
    vertical["distillation"] = {"method": "kd"}
    run = {
        "name": "small",
        "root": root,
        "feature_schema": Schema.read(SYNTHETIC).select(tasks=("click",)).to_dict(),
        "source": {
            "kind": "synthetic",
            "num_impressions": 2000,
            "num_users": 100,
            "num_ads": 60,
            "duration_s": 432_000,
        },
        "window_length": 43_200,
        "das": {"fm_wait": 0},
        "compare": ["label", "auto"],
        "foundation_models": [foundation],
        "vertical_models": [vertical],
    }
    path = folder / f"{root}.yaml"
    path.write_text(yaml.safe_dump(run), encoding="utf-8")
    return path


def told(run: subprocess.CompletedProcess[str], stage: str) -> str:
    """Return the line of a step that is done."""
    assert run.returncode == 0, run.stdout + run.stderr
    [line] = [line for line in run.stdout.splitlines() if line.startswith(f"✓ {stage} ")]
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def before(folder: Path) -> dict[str, subprocess.CompletedProcess[str]]:
    """Return the steps, each by itself, of a run that comes before anything is published."""
    run = write_run(folder, root="before", name="big", published="trained/models/fm")
    steps = "ingest run", "label", "train-fm big", "join", "train-vm search", "bundle search", "smoke-test", "report"
    done = {step: exfm(*step.split(), "-c", run) for step in steps}
    assert not any(one.returncode for one in done.values()), done
    return done


@pytest.fixture(scope="module")
def after(folder: Path, before: object) -> subprocess.CompletedProcess[str]:
    """Return a run that comes after another one trained the foundation model."""
    model = {"model": SMALL | {"dim_factor": 2}, "training": TRAINING}
    trained = exfm("das", "advance", "-c", write_run(folder, root="trained", name="fm", **model))
    assert trained.returncode == 0, trained.stderr
    return exfm("run", "-c", write_run(folder, root="after", name="big", published="trained/models/fm"))


def test_the_step_scores_and_learns_nothing(after: Any, folder: Path) -> None:
    line = told(after, "train-fm big")
    assert "big: learns nothing here; scored 9 windows now, 0 wait for its next snapshot; " in line
    assert f"{folder}/trained/models/fm has learned up to " in line
    assert not (folder / "after/models/big").exists()


def test_a_vertical_model_learns_from_its_pseudo_labels(after: Any, folder: Path) -> None:
    told(after, "train-vm search")
    manifest = ModelManifest.read(folder / "after/models/search")
    assert manifest.teachers == ("big",)
    untaught = ModelManifest.read(folder / "before/models/search")
    assert manifest.line == untaught.line
    digests = [[snapshot.digest for snapshot in one.snapshots] for one in (untaught, manifest)]
    assert digests[0][0] == digests[1][0], "the first window comes before the first snapshot that may score"
    assert digests[0][-1] != digests[1][-1]
    examples = pl.scan_delta(folder / "after/tables/examples").collect()
    assert examples["pseudo.big.click"].drop_nulls().len()


def test_methods_are_compared_by_it(after: Any, folder: Path) -> None:
    assert "not compared" not in told(after, "compare")
    found = json.loads((folder / "after/comparison.json").read_text())
    assert found["foundation_models"]["big"]["uri"] == f"{folder}/trained/models/fm"


def test_the_report_says_who_trains_it_and_compares_it_with_no_vertical_model(after: Any, folder: Path) -> None:
    told(after, "report")
    summary = json.loads((folder / "after/summary.json").read_text())
    [teacher] = summary["foundations"]
    assert teacher["name"] == "big"
    assert teacher["published"] == f"{folder}/trained/models/fm"
    assert teacher["overall"] == {}
    assert teacher["pseudo_labels"]["num_scored"] > 0
    assert "foundation.big" not in summary["verticals"][0]["tasks"]["click"]["qualities"]
    assert any("pseudo_label_ne" in report["figures"] for report in summary["data"]["reports"])
    assert f"{folder}/trained/models/fm" in (folder / "after/report.html").read_text()


def test_steps_one_by_one_and_progress_take_it(after: Any, folder: Path) -> None:
    for command in (("train-fm", "big"), ("report",), ("progress",)):
        again = exfm(*command, "-c", folder / "after.yaml")
        assert again.returncode == 0, again.stderr


def test_steps_by_themselves_do_what_is_due(before: Any) -> None:
    assert told(before["label"], "label").endswith(" 1,790 impressions labelled in 9 windows")
    assert " 1,790 examples with pseudo-labels of big in 9 windows" in told(before["join"], "join")


def test_before_anything_is_published_windows_go_without(before: Any, folder: Path) -> None:
    line = told(before["train-fm big"], "train-fm big")
    assert f"nothing is published at {folder}/trained/models/fm yet: 9 windows now go without" in line
    reason = "no example has a pseudo-label of foundation model 'big', which is trained elsewhere"
    assert why_not_yet(read_run_config(folder / "before.yaml")) == reason
    told(before["report"], "report")
    assert json.loads((folder / "before/summary.json").read_text())["foundations"] == []


def test_a_model_that_does_not_fit_ends_the_first_step(after: Any, folder: Path) -> None:
    wrong = exfm("run", "-c", write_run(folder, root="wrong", name="big", published="after/models/search"))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("exfm: foundation model ")
    assert "is vertical model 'search'; name the folder models/NAME of a foundation model" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
