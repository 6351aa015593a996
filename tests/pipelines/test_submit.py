"""A run's pipeline is brought to a server, started and followed."""

from typing import Any

import pytest
from kubeflow_server import Kubeflow, running

from exfm.errors import ConfigError, StageError
from exfm_components.run_config import RunConfig
from exfm_pipelines import submit as submission
from exfm_pipelines.server import Server
from exfm_pipelines.submit import submit

IMAGE = "registry.example.com/exfm-pipelines@sha256:" + 64 * "a"


@pytest.fixture(autouse=True)
def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "POLL_S", 0.0)


def task(name: str, state: str, *, error: str = "") -> dict[str, Any]:
    said = {"error": {"message": error}} if error else {}
    return {"task_id": name, "display_name": name, "state": state, "start_time": "2026-11-30T00:00:00Z"} | said


def state(state: str, *tasks: dict[str, Any]) -> dict[str, Any]:
    return {"state": state, "run_details": {"task_details": list(tasks)}}


def submitted(config: RunConfig, kubeflow: Kubeflow, *, token: str = "", until: str = "") -> list[str]:
    lines: list[str] = []
    with running(kubeflow):
        server = Server(host=kubeflow.host, token=token)
        submit(config, image=IMAGE, server=server, experiment="nightly", report=lines.append, until=until)
    return lines


def test_a_run_is_uploaded_started_and_followed_to_its_end(config: RunConfig) -> None:
    kubeflow = Kubeflow(
        states=[
            state("RUNNING", task("check", "SUCCEEDED"), task("check-driver", "SUCCEEDED"), task("ingest", "RUNNING")),
            state(
                "SUCCEEDED",
                task("check", "SUCCEEDED"),
                task("for-loop-1", "SUCCEEDED"),
                task("make-labels", "SUCCEEDED"),
            ),
        ]
    )
    lines = submitted(config, kubeflow)
    assert [line.split(" s  ")[-1] for line in lines] == [
        "run run-1", "check: SUCCEEDED", "label: SUCCEEDED", "SUCCEEDED",
    ]  # fmt: skip
    [(path, name, package)] = kubeflow.uploads
    assert path == "/pipelines/upload_version"
    assert name.startswith("exfm-ads-")
    assert IMAGE.encode() in package
    [run] = kubeflow.runs
    assert run["pipeline_version_reference"] == {"pipeline_id": "pipeline-1", "pipeline_version_id": "version-1"}
    assert run["experiment_id"] == "experiment-1"


@pytest.mark.parametrize(("until", "given"), [("2026-01-31", {"until": "2026-01-31"}), ("", {})])
def test_a_run_may_end_before_its_log(config: RunConfig, until: str, given: dict[str, str]) -> None:
    kubeflow = Kubeflow(states=[state("SUCCEEDED")])
    submitted(config, kubeflow, until=until)
    [run] = kubeflow.runs
    assert run["runtime_config"]["parameters"] == given


def test_a_changed_run_is_one_more_version_of_its_pipeline(config: RunConfig) -> None:
    kubeflow = Kubeflow(states=[state("SUCCEEDED")], pipelines={"exfm-ads": "pipeline-7"})
    for window_length in (100, 100, 200):
        submitted(config.model_copy(update={"window_length": window_length}), kubeflow)
    assert kubeflow.pipelines == {"exfm-ads": "pipeline-7"}
    versions = [run["pipeline_version_reference"]["pipeline_version_id"] for run in kubeflow.runs]
    assert versions == ["version-1", "version-1", "version-2"]


def test_a_run_that_fails_says_what_its_step_said(config: RunConfig) -> None:
    kubeflow = Kubeflow(states=[state("FAILED", task("ingest", "FAILED", error="no such bucket"))])
    with pytest.raises(StageError, match=r"^run run-1 FAILED: ingest: no such bucket$"):
        submitted(config, kubeflow)


def test_a_token_goes_with_every_request(config: RunConfig) -> None:
    lines = submitted(config, Kubeflow(states=[state("SUCCEEDED")], token="secret"), token="secret")
    assert lines[-1].endswith("SUCCEEDED")


def test_a_server_that_refuses_is_named_in_one_line(config: RunConfig, caplog: pytest.LogCaptureFixture) -> None:
    kubeflow = Kubeflow(states=[state("SUCCEEDED")], token="secret")
    with pytest.raises(ConfigError) as caught:
        submitted(config, kubeflow, token="wrong")
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"Kubeflow Pipelines at {kubeflow.host} did not accept the pipeline: (401)")
    assert line.endswith("check --host, --token and --namespace")
    assert not caplog.records, "kfp's tracebacks are kept off the screen"


def test_a_server_that_is_away_is_named_in_one_line(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"^Kubeflow Pipelines at http://127.0.0.1:1 did not accept the pipeline: "):
        submit(config, image=IMAGE, server=Server("http://127.0.0.1:1"), experiment="x", report=print)
