"""Nights of a small log on a Kubeflow Pipelines that is there: replay, eviction, a bad file, a day more, schedule.

KFP_HOST names it. It needs KUBECONFIG, S3's environment as seen from here, and ConfigMap and Secret `exfm` as seen from
pods (docs/pipelines.md). All outputs lie below KFP_TEST_ROOT, and are removed.
"""

import os
import time
import uuid
from collections.abc import Iterator

import pytest
import yaml
from kubeflow_cluster import Attempt, Kubeflow, Submitted, evict
from s3fs import S3FileSystem

from exfm_components.stages import IMAGE
from exfm_pipelines.schedule import recurring_runs
from exfm_pipelines.server import Server
from exfm_pipelines.teach_distil_serve import pipeline_name
from nightly_log import FIRST_DAY, run_settings

pytestmark = pytest.mark.kfp

ROOT = os.environ.get("KFP_TEST_ROOT") or "s3://models/test-kfp"
YEARLY = "0 3 1 1 *"
SEEN_S = 3.0
"""Time in which Argo sees that a pod runs."""
NEEDED = ("KFP_HOST", "KUBECONFIG", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def kubeflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubeflow]:
    """The server, with a run of its own; afterwards nothing of the run is left but what Kubeflow keeps of runs."""
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        pytest.fail(f"{', '.join(missing)} not set: see docs/pipelines.md, Test it on your Kubeflow")
    name = f"test-{uuid.uuid4().hex[:8]}"
    root = f"{ROOT}/{name}"
    file = tmp_path_factory.mktemp("kubeflow") / "run.yaml"
    run = run_settings(name, root=f"{root}/root", log=f"{root}/log", platform={"backoff_s": 20})
    file.write_text(yaml.safe_dump(run), encoding="utf-8")
    host = os.environ["KFP_HOST"]
    one = Kubeflow(host=host, image=os.environ.get("KFP_IMAGE") or IMAGE, file=file)
    for day in range(4):
        one.put_day(day)
    yield one
    S3FileSystem().rm(root, recursive=True)
    server = Server(host)
    with server.asking("delete the schedule") as client:
        pipeline_id = server.find_pipeline(pipeline_name(one.config))
        for recurring in list(recurring_runs(server, pipeline_id)) if pipeline_id else ():
            client.delete_recurring_run(recurring.recurring_run_id)


Tables = dict[str, tuple[list[int], int]]
"""Windows with rows, and version, by table."""


@pytest.fixture(scope="module")
def replay(kubeflow: Kubeflow) -> tuple[Submitted, Tables]:
    """The first run, of four days; a step's pod is evicted while it runs."""

    def disturb(run_id: str) -> Attempt:
        attempt = kubeflow.wait_for_attempt(run_id, "train-foundation", phase="Running")
        time.sleep(SEEN_S)
        evict(attempt.pod)
        return attempt

    ended = kubeflow.submit(during=disturb)
    assert ended.exit_code == 0, ended.printed
    return ended, kubeflow.tables()


@pytest.fixture(scope="module")
def failed_night(kubeflow: Kubeflow, replay: tuple[Submitted, Tables]) -> tuple[Submitted, Tables]:
    """The run after a day more, whose file is bad."""
    kubeflow.put_day(4, bad=True)
    return kubeflow.submit(), kubeflow.tables()


@pytest.fixture(scope="module")
def next_night(kubeflow: Kubeflow, failed_night: tuple[Submitted, Tables]) -> Tables:
    """The run after that, which has the file as it should be."""
    kubeflow.put_day(4)
    ended = kubeflow.submit()
    assert ended.exit_code == 0, ended.printed
    return kubeflow.tables()


def test_a_replay_whose_step_is_evicted_does_each_window_once(
    kubeflow: Kubeflow, replay: tuple[Submitted, Tables]
) -> None:
    ended, tables = replay
    last = kubeflow.attempts(ended.run_id, "train-foundation")[-1]
    assert ended.disturbed is not None
    assert last.uid != ended.disturbed.uid
    assert last.phase == "Succeeded"
    due = [FIRST_DAY, FIRST_DAY + 1, FIRST_DAY + 2]
    assert tables == dict.fromkeys(("labels", "pseudo_labels", "examples"), (due, tables["labels"][1]))


def test_a_run_with_a_bad_file_fails_and_changes_no_window(
    kubeflow: Kubeflow, replay: tuple[Submitted, Tables], failed_night: tuple[Submitted, Tables]
) -> None:
    ended, tables = failed_night
    assert ended.exit_code != 0
    assert "ingest: FAILED" in ended.printed
    assert tables == replay[1]
    assert "FAILED" in kubeflow.exfm("status")


def test_the_next_night_does_the_new_window_and_no_other(replay: tuple[Submitted, Tables], next_night: Tables) -> None:
    for table, (windows, version) in next_night.items():
        before, version_before = replay[1][table]
        assert windows == [*before, FIRST_DAY + 3], table
        assert version == version_before + 1, f"{table}: one commit is one window"


def test_a_schedule_is_one_however_often_it_is_made_and_status_tells_of_it(
    kubeflow: Kubeflow, next_night: Tables
) -> None:
    schedule = ("schedule", "--cron", YEARLY, "--image", kubeflow.image)
    assert " is new; next " in kubeflow.exfm(*schedule)
    assert " stays; next " in kubeflow.exfm(*schedule)
    told = kubeflow.exfm("status")
    assert told.count(f"schedule '{YEARLY}', next ") == 1
    assert told.count("SUCCEEDED") == 2
