"""MLflow has a run for each run of the pipeline, and what its steps log is below it."""

from pathlib import Path

import pytest
from mlflow.entities import Run

from exfm.registry import pipeline_run
from exfm.registry.mlflow_registry import Registry
from exfm.registry.pipeline_run import begin, end, flattened
from exfm.registry.runs import logging_run

pytestmark = pytest.mark.slow

SETTINGS = {"name": "ads", "vertical_models": [{"name": "news", "training": {"batch_size": 64}}], "compare": ["auto"]}


def log(registry: Registry, name: str) -> Run:
    with logging_run(registry, name, params={}, metrics=[]) as run:
        pass
    return registry.client.get_run(run.info.run_id)


def begin_run(registry: Registry, root: str = "s3://models/ads") -> None:
    begin(registry, name="ads", root=root, settings=SETTINGS, commit="0123")


def runs_of_pipelines(registry: Registry) -> list[Run]:
    found: list[Run] = registry.client.search_runs([registry.experiment()], "tags.exfm_pipeline_run LIKE '%'")
    return found


def test_runs_of_steps_are_children_of_the_pipelines(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXFM_PIPELINE_RUN", "run-1")
    begin_run(registry)
    begin_run(registry)  # a step that is retried
    child = log(registry, "news")
    end(registry)
    [parent] = runs_of_pipelines(registry)
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert parent.info.run_name == "ads"
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {
        "name": "ads",
        "vertical_models.news.training.batch_size": "64",
        "compare": "['auto']",
    }
    assert parent.data.tags["git_commit"] == "0123"


def test_a_step_by_itself_has_no_parent(registry: Registry) -> None:
    begin_run(registry)
    assert "mlflow.parentRunId" not in log(registry, "news").data.tags
    end(registry)
    assert runs_of_pipelines(registry) == []


def test_a_run_that_was_not_ended_for_a_week_has_failed(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = ("/an apostrophe's/root", "s3://models/other", "/an apostrophe's/root")
    for number, root in enumerate(roots):
        monkeypatch.setenv("EXFM_PIPELINE_RUN", f"run-{number}")
        begin_run(registry, root)
    monkeypatch.setattr(pipeline_run, "ABANDONED_MS", -1)
    monkeypatch.setenv("EXFM_PIPELINE_RUN", "run-3")
    begin_run(registry, roots[0])
    found = {run.data.tags["exfm_pipeline_run"]: run.info.status for run in runs_of_pipelines(registry)}
    assert found == {"run-0": "FAILED", "run-1": "RUNNING", "run-2": "FAILED", "run-3": "RUNNING"}


def test_a_setting_may_have_any_name(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXFM_PIPELINE_RUN", "run-1")
    begin(registry, name="ads", root="out", settings={"max_drift": {"price ($)": 0.25}}, commit="")
    [parent] = runs_of_pipelines(registry)
    assert parent.data.params == {"max_drift.price ___": "0.25"}


def test_the_run_of_kubeflows_plugin_is_the_parent(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = registry.client.create_experiment("of Kubeflow")
    outer = registry.client.create_run(experiment)
    monkeypatch.setenv("EXFM_PIPELINE_RUN", "run-1")
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.info.run_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment)
    begin_run(registry)
    child = log(registry, "news")
    end(registry)
    assert (child.info.experiment_id, child.data.tags["mlflow.parentRunId"]) == (experiment, outer.info.run_id)
    assert runs_of_pipelines(registry) == []
    assert registry.client.get_run(outer.info.run_id).info.status == "RUNNING", "Kubeflow ends it"


def test_the_report_is_an_artifact(registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXFM_PIPELINE_RUN", "run-1")
    begin_run(registry)
    (tmp_path / "report.html").write_text("<p>found</p>", encoding="utf-8")
    end(registry, files=[str(tmp_path / "report.html")])
    [parent] = runs_of_pipelines(registry)
    assert [one.path for one in registry.client.list_artifacts(parent.info.run_id)] == ["report.html"]


def test_plots_are_images_in_a_folder_of_their_own(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXFM_PIPELINE_RUN", "run-1")
    begin_run(registry)
    svg = "<svg><text>ä</text></svg>"
    end(registry, plots={"entropy-news": svg.encode()})
    [parent] = runs_of_pipelines(registry)
    assert [one.path for one in registry.client.list_artifacts(parent.info.run_id, "plots")] == [
        "plots/entropy-news.svg"
    ]
    kept = registry.client.download_artifacts(parent.info.run_id, "plots/entropy-news.svg")
    assert Path(kept).read_text(encoding="utf-8") == svg


def test_settings_have_their_paths() -> None:
    assert flattened({"a": {"b": 1, "c": {}}, "d": [1, 2], "e": [{"name": "x", "f": 2}]}) == [
        ("a.b", 1), ("a.c", {}), ("d", [1, 2]), ("e.x.f", 2),
    ]  # fmt: skip
