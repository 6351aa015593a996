"""A run's recurring run is what its file says, and the server tells how it goes."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kubeflow_server import Kubeflow, running

from exfm.errors import ConfigError
from exfm_components.run_config import RunConfig
from exfm_pipelines.schedule import next_time, schedule
from exfm_pipelines.server import Server
from exfm_pipelines.status import status_of

NIGHTLY = "0 3 * * *"


def scheduled(config: RunConfig, kubeflow: Kubeflow, *, cron: str = NIGHTLY) -> str:
    return schedule(config, cron=cron, image="i", server=Server(kubeflow.host), experiment="nightly")


def test_a_schedule_runs_the_version_that_the_file_compiles_to(config: RunConfig) -> None:
    with running(Kubeflow()) as kubeflow:
        line = scheduled(config, kubeflow)
    assert line.startswith("exfm-ads: the schedule '0 3 * * *' is new; next ")
    [made] = kubeflow.recurring.values()
    assert made["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *", "Kubeflow's first field is seconds"
    assert made["pipeline_version_reference"] == {"pipeline_id": "pipeline-1", "pipeline_version_id": "version-1"}
    assert (made["max_concurrency"], made["no_catchup"]) == (1, True)


def test_the_same_schedule_again_changes_nothing(config: RunConfig) -> None:
    with running(Kubeflow()) as kubeflow:
        scheduled(config, kubeflow)
        line = scheduled(config, kubeflow)
    assert " stays; next " in line
    assert (len(kubeflow.uploads), kubeflow.changes) == (1, ["create recurring-1"])


@pytest.mark.parametrize("change", ["cron", "file", "paused"])
def test_another_one_is_made_before_the_old_one_goes(config: RunConfig, change: str) -> None:
    with running(Kubeflow()) as kubeflow:
        scheduled(config, kubeflow)
        if change == "paused":
            kubeflow.recurring["recurring-1"]["status"] = "DISABLED"
        changed = config.model_copy(update={"window_length": 200}) if change == "file" else config
        line = scheduled(changed, kubeflow, cron="30 4 * * *" if change == "cron" else NIGHTLY)
    assert " replaces another; next " in line
    assert kubeflow.changes == ["create recurring-1", "create recurring-2", "delete recurring-1"]


def test_schedules_of_other_pipelines_stay(config: RunConfig) -> None:
    with running(Kubeflow()) as kubeflow:
        scheduled(config.model_copy(update={"name": "other"}), kubeflow)
        scheduled(config, kubeflow)
    assert len(kubeflow.recurring) == 2


@pytest.mark.parametrize(
    "cron",
    ["", "0 3 * *", "0 0 3 * * *", "60 3 * * *", "daily", "0 0 31 2 *", "0 3 * * 7", "0 3 L * *", "0 3 * * MON#1"],
)
def test_a_schedule_that_is_none_is_refused_before_anything_is_made(config: RunConfig, cron: str) -> None:
    with running(Kubeflow()) as kubeflow, pytest.raises(ConfigError, match="such as '0 3 "):
        scheduled(config, kubeflow, cron=cron)
    assert kubeflow.pipelines == {}


def test_a_schedule_says_when_it_is_next() -> None:
    after = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    assert next_time(NIGHTLY, after=after) == datetime(2026, 2, 1, 3, 0, tzinfo=UTC)


def run_of(pipeline: str, state: str, **more: Any) -> dict[str, Any]:
    times = {"created_at": "2026-01-31T03:00:00Z", "finished_at": "2026-01-31T03:09:00Z"}
    return {"pipeline_version_reference": {"pipeline_id": pipeline}, "state": state} | times | more


def test_status_tells_of_the_schedule_and_of_the_newest_runs(config: RunConfig) -> None:
    failed = run_of("pipeline-1", "FAILED")
    details = {"task_details": [{"display_name": "ingest", "error": {"message": "no such bucket"}}]}
    with running(Kubeflow(states=[failed | {"run_details": details}])) as kubeflow:
        scheduled(config, kubeflow)
        kubeflow.runs += [failed, run_of("pipeline-2", "SUCCEEDED"), failed]
        first, *told = status_of(config, server=Server(kubeflow.host), num_runs=1)
    assert first.startswith("exfm-ads: schedule '0 3 * * *', next ")
    assert told == ["2026-01-31 03:00  FAILED, 9 min", "  ingest: no such bucket"]


def test_status_of_a_paused_schedule_says_so(config: RunConfig) -> None:
    with running(Kubeflow()) as kubeflow:
        scheduled(config, kubeflow)
        kubeflow.recurring["recurring-1"]["status"] = "DISABLED"
        assert status_of(config, server=Server(kubeflow.host), num_runs=5) == [
            "exfm-ads: schedule '0 3 * * *', paused", "no run among the newest 100 of this server",
        ]  # fmt: skip


def test_status_of_a_pipeline_that_is_not_there_says_what_brings_it(config: RunConfig) -> None:
    with running(Kubeflow()) as kubeflow:
        [line] = status_of(config, server=Server(kubeflow.host), num_runs=5)
    assert line == "exfm-ads: not in Kubeflow Pipelines; `exfm pipelines schedule` brings it there"
