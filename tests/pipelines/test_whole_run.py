"""The pipeline by KFP's local runner, on a small synthetic stream, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from commands import exfm
from exfm.artifact.bundle import BundleManifest, find_bundle
from exfm.artifact.storage import ref_to
from exfm.events.schemas import SYNTHETIC
from exfm.registry.mlflow_registry import EXPERIMENT, Registry
from exfm.schema import Schema
from exfm.training.manifest import ModelManifest

pytestmark = pytest.mark.slow

SMALL = {"network": {"bottom_units": [4], "num_cross_layers": 1, "cross_rank": 4, "top_units": [8]}}
TRAINING = {"batch_size": 128, "warmup_windows": 2}
FOUNDATION = {"name": "fm", "model": SMALL | {"dim_factor": 2}, "training": TRAINING, "tasks": ["click"]}
SEARCH = {"name": "search", "domains": ["search"], "model": SMALL, "training": TRAINING, "tasks": ["click"]}


def run_config(folder: Path, **changes: Any) -> Path:
    """Write a small run's file, changed at its top level, and return its path."""
    config = {
        "name": "small",
        "root": "out",
        "feature_schema": Schema.read(SYNTHETIC).select(tasks=("click",)).to_dict(),
        "source": {
            "kind": "synthetic",
            "num_impressions": 3000,
            "num_users": 100,
            "num_ads": 60,
            "duration_s": 432_000,
        },
        "window_length": 43_200,
        "compare": ["label", "auto"],
        "foundation_models": [FOUNDATION, FOUNDATION | {"name": "wide", "model": SMALL | {"dim_factor": 4}}],
        "vertical_models": [
            SEARCH,
            {"name": "rest", "domains": ["feed", "video"], "model": SMALL, "training": TRAINING, "tasks": ["click"]},
        ],
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config | changes), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    return exfm("run", "-c", run_config(folder))


@pytest.fixture(scope="module")
def root(folder: Path, finished: subprocess.CompletedProcess[str]) -> Path:
    assert finished.returncode == 0, finished.stderr
    return folder / "out"


def test_a_run_leaves_its_outputs_under_their_fixed_names(root: Path) -> None:
    folders = ["bundle", "models", "registry", "tables"]
    files = [
        "comparison.html", "comparison.json", "pipeline.log", "query.json", "report.html", "smoke-test.json",
        "summary.json",
    ]  # fmt: skip
    assert sorted(path.name for path in root.iterdir()) == sorted(folders + files)
    for name in ("search", "rest"):
        assert BundleManifest.read(Path(find_bundle(str(root / "bundle" / name)))).plan.num_shards == 2
        assert ref_to(str(root / "models" / name)).digest


def test_a_run_tells_one_line_a_stage_and_then_what_it_found(root: Path, finished: Any) -> None:
    lines = finished.stdout.splitlines()
    done = [line for line in lines if line.startswith("✓")]
    stages = [line[2:25].strip() for line in done]
    assert stages[:3] == ["check", "ingest", "label"]
    assert sorted(stages[3:5]) == ["train-fm fm", "train-fm wide"]
    assert stages[5] == "join"
    assert sorted(stages[6:]) == sorted(
        [
            "compare",
            "train-vm search",
            "bundle search",
            "train-vm rest",
            "bundle rest",
            "judge",
            "register",
            "smoke-test",
            "report",
        ]
    )
    assert "KFP Executor" not in finished.stdout
    assert [line for line in lines if line.strip().startswith("curl -s http://127.0.0.1:8080/v2/models/search/infer")]
    assert "report.html" in finished.stdout


def test_what_was_served_is_what_offline_scoring_says(root: Path) -> None:
    smoke_test = json.loads((root / "smoke-test.json").read_text(encoding="utf-8"))
    offline = exfm("score", root / "bundle/search", root / "query.json")
    assert offline.returncode == 0, offline.stderr
    [served], [scored] = smoke_test["answer"]["outputs"], json.loads(offline.stdout)["outputs"]
    np.testing.assert_allclose(served["data"], scored["data"], atol=1e-3)
    top = np.argsort(served["data"])[::-1][:10]
    np.testing.assert_array_equal(top, np.argsort(scored["data"])[::-1][:10])
    assert smoke_test["answer"]["model_version"] == json.loads(offline.stdout)["model_version"]


def test_mlflow_has_a_run_of_the_pipeline_with_the_versions_below_it(root: Path) -> None:
    registry = Registry.at(str(root), create=False)
    [parent] = registry.client.search_runs([registry.experiment()], "tags.exfm_pipeline_run LIKE '%'")
    assert (parent.info.run_name, parent.info.status) == ("small", "FINISHED")
    assert parent.data.params["vertical_models.search.training.batch_size"] == "128"
    assert "report.html" in [one.path for one in registry.client.list_artifacts(parent.info.run_id)]
    plots = [one.path for one in registry.client.list_artifacts(parent.info.run_id, "plots")]
    assert {"plots/entropy-search.svg", "plots/age-wide.svg", "plots/windows.svg"} <= set(plots)
    below = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    children = registry.client.search_runs([registry.experiment()], below)
    assert sorted(child.info.run_name for child in children) == ["fm", "rest", "search", "small comparison", "wide"]


def test_a_version_is_traced_to_its_labels(root: Path) -> None:
    bundle_id = Path(find_bundle(str(root / "bundle" / "search"))).name
    drawn = {exfm("lineage", named, "--root", root).stdout for named in ("models:/search@candidate", bundle_id[:12])}
    [text] = drawn
    assert text.startswith(f"search version 1 (candidate): bundle {bundle_id[:12]}, commit ")
    for made_from in ("state search-", "pseudo-labels of fm", "pseudo-labels of wide", "state wide-", "labels of "):
        assert made_from in text
    for wrong, message in (("search", "none of models:/NAME@ALIAS, models:/"), ("0" * 12, "name more digits")):
        refused = exfm("lineage", wrong, "--root", root)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_foundation_models_are_registered_traced_and_never_served(root: Path) -> None:
    traced = exfm("lineage", "models:/wide/1", "--root", root)
    assert traced.stdout.startswith("wide version 1: foundation model, commit "), traced.stderr
    assert "labels of " in traced.stdout
    query = root / "query.json"
    for refused in (
        exfm("score", "models:/wide/1", query, "--root", root),
        exfm("serve", "models:/wide@champion", "--root", root),
        exfm("promote", "wide", "--root", root),
        exfm("promote", "wide", "--version", "1", "--root", root),
    ):
        assert refused.returncode == 2
        [line] = refused.stderr.splitlines()
        assert line.startswith("exfm: 'wide' is a foundation model: it teaches vertical models, and has no bundle")


def test_the_registry_resolves_to_the_bundle_that_was_made(root: Path) -> None:
    offline = exfm("score", "models:/search@candidate", root / "query.json", "--root", root)
    assert offline.returncode == 0, offline.stderr
    made = BundleManifest.read(Path(find_bundle(str(root / "bundle/search"))))
    assert json.loads(offline.stdout)["model_version"] == made.bundle_id


def test_the_summary_is_of_this_run(root: Path) -> None:
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    assert [model["name"] for model in summary["verticals"]] == ["search", "rest"]
    assert [model["name"] for model in summary["foundations"]] == ["fm", "wide"]


def test_a_vertical_model_learns_from_all_foundation_models_of_the_run(root: Path) -> None:
    for name in ("search", "rest"):
        manifest = ModelManifest.read(root / "models" / name)
        assert manifest.teachers == ("fm", "wide")
        assert {chosen.teacher for chosen in manifest.teacher_weights} == {"fm", "wide"}


def test_the_report_has_what_the_step_compared(root: Path, finished: Any) -> None:
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    comparison = json.loads((root / "comparison.json").read_text(encoding="utf-8"))
    assert summary["comparison"] == comparison
    assert comparison["examples"] == summary["provenance"]["examples"]
    for compared, model in zip(comparison["verticals"], summary["verticals"], strict=True):
        auto = compared["tasks"]["click"]["teachers"]["fm+wide"]["methods"]["auto"]
        served = model["tasks"]["click"]["qualities"]["vertical"]
        assert auto["normalized_entropy"]["value"] == pytest.approx(served["normalized_entropy"], rel=1e-6)
    assert "change from label-only, 0.01" in finished.stdout


def test_methods_are_compared_deeper_after_the_run_and_reported(root: Path, folder: Path) -> None:
    deeper = {"methods": ["label", "kd"], "num_seeds": 2, "tuning_windows": 4, "learning_rates": []}
    done = exfm("distill", "compare", "-c", run_config(folder, comparison=deeper))
    assert done.returncode == 0, done.stderr
    assert exfm("report", "-c", folder / "run.yaml").returncode == 0
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    assert summary["comparison"]["config"]["methods"] == ["label", "kd"]
    client = Registry.at(str(root), create=False).client
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], "attributes.run_name = 'small comparison'")
    assert sorted(run.data.params["methods"] for run in runs) == ["['label', 'auto']", "['label', 'kd']"]


def test_stages_that_run_again_by_themselves_change_nothing(root: Path, folder: Path) -> None:
    models = {name: ref_to(str(root / "models" / name)) for name in ("search", "wide")}
    bundles = {path.name for path in (root / "bundle/search").iterdir()}
    for command, name in (("train-vm", "search"), ("train-fm", "wide"), ("bundle", "search")):
        again = exfm(command, name, "-c", folder / "run.yaml")
        assert again.returncode == 0, again.stderr
        assert again.stdout.startswith(f"✓ {command} {name}")
    assert {name: ref_to(str(root / "models" / name)) for name in models} == models
    assert {path.name for path in (root / "bundle/search").iterdir()} == bundles


def test_a_run_with_nothing_due_registers_nothing(root: Path, folder: Path) -> None:
    again = exfm("run", "-c", folder / "run.yaml")
    assert again.returncode == 0, again.stderr
    [registered] = [line for line in again.stdout.splitlines() if line.startswith("✓ register")]
    assert registered.endswith("search v1 (candidate), rest v1 (candidate); fm: nothing new, wide: nothing new")
    for line in again.stdout.splitlines():
        if line.startswith(("✓ label", "✓ join")):
            assert " 0 windows now; " in line


def test_a_log_with_no_closed_window_is_taken_in_and_models_wait(tmp_path: Path) -> None:
    source = {"kind": "synthetic", "num_impressions": 1000, "num_users": 20, "num_ads": 20, "duration_s": 30_000}
    young = exfm(
        "run", "-c", run_config(tmp_path, source=source, foundation_models=[FOUNDATION], vertical_models=[SEARCH])
    )
    assert young.returncode == 0, young.stderr
    for stage in ("train-fm fm", "train-vm search", "bundle search"):
        [line] = [line for line in young.stdout.splitlines() if line.startswith(f"✓ {stage} ")]
        assert "has learned nothing yet" in line
    [compared] = [line for line in young.stdout.splitlines() if line.startswith("✓ compare ")]
    assert compared.endswith("not compared yet: there are too few windows after the warm-up")
    assert "No vertical model has learned yet." in young.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pipeline.log", "registry", "tables"]


def test_a_failing_stage_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    source = {"kind": "movielens", "folder": "nowhere"}
    failed = exfm("run", "-c", run_config(tmp_path, source=source))
    assert failed.returncode == 2
    assert failed.stderr.startswith("exfm: ")
    assert str(tmp_path / "nowhere") in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "out/tables").exists()


def test_a_domain_that_no_impression_has_ends_a_run_before_anything_is_trained(tmp_path: Path) -> None:
    failed = exfm(
        "run",
        "-c",
        run_config(tmp_path, vertical_models=[{"name": "search", "tasks": ["click"], "domains": ["serch"]}]),
    )
    assert failed.returncode == 2
    assert failed.stdout.splitlines()[-1].startswith("✓ check")  # the log is there, and no model
    assert failed.stderr == (
        "exfm: vertical model 'search': no impression is of domain 'serch'; the log's domains are feed, mail, "
        "search, shop, stories, video: correct `domains` of the vertical model\n"
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["pipeline.log", "registry", "tables"]
    log = (tmp_path / "out/pipeline.log").read_text(encoding="utf-8")
    assert log.count("exfm | failed") == 1, "KFP's retries, 90 s apart, are for a cluster"


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_text(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return [line for line in lines if str(folder) in line]


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "stage"),
    [  # KFP runs a loop's steps in threads, and the others in its main one
        (signal.SIGINT, "train-vm search"),
        (signal.SIGTERM, "train-fm fm"),
    ],
)
def test_a_signal_ends_a_run_at_once_and_the_next_one_goes_on(
    tmp_path: Path, number: signal.Signals, stage: str
) -> None:
    config = run_config(
        tmp_path,
        foundation_models=[FOUNDATION],
        vertical_models=[SEARCH | {"training": {"batch_size": 1}}],
        compare=[],
    )
    root, scratch = tmp_path / "out", tmp_path / "scratch"
    scratch.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", "from exfm.cli.main import main; main()", "run", "-c", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch)},
    ) as run:
        log, give_up_s = root / "pipeline.log", time.monotonic() + 300
        while not log.exists() or f"under way | {stage} | {stage}: " not in log.read_text():
            assert run.poll() is None
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        assert processes_of(root)
        sent_s = time.monotonic()
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
        took_s = time.monotonic() - sent_s
    assert took_s < 10, "KFP itself waits for the loop's steps, 24 s and more"
    assert not processes_of(root)
    assert run.returncode == 128 + number
    assert err == (
        f"exfm: stopped by {number.name} during {stage}; what was done by then is kept below {root}, and nothing is "
        "half-written; run the same command again, it goes on\n"
    )
    assert not list(root.rglob(".*"))
    assert not list(scratch.iterdir())
    learned = set(root.glob("models/*/*/*"))
    assert learned
    again = exfm(*stage.split(), "-c", config)
    assert again.returncode == 0, again.stderr
    assert learned < set(root.glob("models/*/*/*"))
