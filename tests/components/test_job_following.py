"""A TrainJob as a step follows it: what the step prints, how it ends, and what is left."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from exfm.deploy.objects import Object
from exfm.errors import ExfmError, StageError, StoppedError
from exfm_components import job_following
from exfm_components.job_following import run_job

JOB: Object = {
    "kind": "TrainJob",
    "metadata": {"name": "exfm-fm-1"},
    "spec": {
        "trainer": {"numNodes": 2, "numProcPerNode": 1, "resourcesPerNode": {"limits": {"cpu": "2", "memory": "2Gi"}}},
    },
}
RUNNING: Object = {"running": {}}


def walked(number: int) -> str:
    return f"exfm | under way | train-fm fm | {number} of 3 windows"


def pod(node: int, state: Object, *, attempt: int = 0) -> Object:
    return {
        "metadata": {
            "name": f"exfm-fm-1-node-0-{node}-{attempt}",
            "uid": f"{node}-{attempt}",
            "creationTimestamp": f"2026-11-24T00:00:0{attempt}Z",
            "labels": {"batch.kubernetes.io/job-completion-index": str(node)},
        },
        "status": {
            "phase": "Running" if "running" in state else "Pending" if "waiting" in state else "Failed",
            "containerStatuses": [{"name": "node", "state": state, "ready": False}],
        },
    }


def status(kind: str, reason: str = "", message: str = "") -> Object:
    return {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": message}]}


@dataclass
class Moment:
    """What there is at one look."""

    pods: tuple[Object, ...] = ()
    status: Object = field(default_factory=dict)
    suspended: bool = False
    events: tuple[Object, ...] = ()


RUNS = Moment((pod(0, RUNNING), pod(1, RUNNING)))
COMPLETE = Moment(RUNS.pods, status("Complete"))


@dataclass
class SimulatedTrainer:
    """What a step needs of an API server with a Kubeflow Trainer behind it: each look at the job is a moment later."""

    moments: list[Moment]
    existing: Moment | None = None
    """The job that is there before the step."""
    namespace: str = "kubeflow"
    done: list[str] = field(default_factory=list)

    def get(self, kind: str, name: str) -> Object | None:
        assert (kind, name) == ("TrainJob", "exfm-fm-1")
        if "create" not in self.done:
            if self.existing is None or "delete" in self.done:
                return None
            if self.existing.status:  # it has ended
                return self.job(self.existing)
        self.moment = self.moments.pop(0) if len(self.moments) > 1 else self.moments[0]
        return self.job(self.moment)

    def job(self, moment: Moment) -> Object:
        return {**JOB, "spec": {**JOB["spec"], "suspend": moment.suspended}, "status": moment.status}

    def find(self, kind: str, *, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
        if "create" not in self.done and "delete" in self.done:
            return []
        return list(self.moment.pods if kind == "Pod" else self.moment.events)

    def create(self, object_: Object) -> None:
        assert object_ == JOB
        self.done.append("create")

    def delete(self, kind: str, name: str, *, owned_first: bool = True) -> None:
        self.done.append("delete")


Log = Callable[[], Iterator[str]]


def log(*tries: list[str | Exception]) -> Log:
    """Return a log that is one of these at each reading, and empty after the last."""
    left = list(tries)

    def read() -> Iterator[str]:
        for line in left.pop(0) if left else []:
            if isinstance(line, Exception):
                raise line
            yield line

    return read


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_following, "POLL_S", 0.05)
    monkeypatch.setattr(job_following, "LOG_END_S", 1.0)


def follow(trainer: Any, read: Log, told: list[str] | None = None) -> list[str]:
    told = [] if told is None else told
    run_job(trainer, JOB, log=read, report=told.append)
    return told


def test_a_job_is_made_followed_and_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = SimulatedTrainer([Moment(), RUNS, COMPLETE])
    told = follow(trainer, log([walked(1), walked(2), walked(3)]))
    assert capsys.readouterr().out.splitlines() == [walked(1), walked(2), walked(3)]
    assert told == [
        "TrainJob exfm-fm-1 in namespace kubeflow begins: 2 nodes of 1 processes; a node has cpu 2, memory 2Gi",
        "TrainJob exfm-fm-1 waits for 2 pods, of which 0 run",
        "TrainJob exfm-fm-1 runs",
    ]
    assert trainer.done == ["create", "delete"]


def test_a_log_whose_connection_breaks_is_passed_on_once(capsys: pytest.CaptureFixture[str]) -> None:
    broken = RuntimeError("Failed to read logs for the pod")
    read = log(
        [walked(1), broken], [walked(1), walked(2)], [walked(1), walked(2), broken], [walked(n) for n in (1, 2, 3)]
    )
    follow(SimulatedTrainer([RUNS] * 20 + [COMPLETE]), read)
    assert capsys.readouterr().out.splitlines() == [walked(1), walked(2), walked(3)]


def test_after_a_restart_the_new_pods_log_is_passed_on_from_its_start(capsys: pytest.CaptureFixture[str]) -> None:
    again = (pod(0, RUNNING, attempt=1), pod(1, RUNNING, attempt=1))
    trainer = SimulatedTrainer([RUNS, Moment(again), Moment(again, status("Complete"))])
    told = follow(trainer, log([walked(1)], [walked(2), walked(3)]))
    assert capsys.readouterr().out.splitlines() == [walked(1), walked(2), walked(3)]
    assert "rank 0 starts again, in pod exfm-fm-1-node-0-0-1" in told


def test_an_error_that_rank_0_reports_is_raised_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    failed = (pod(0, {"terminated": {"exitCode": 2}}), pod(1, {"terminated": {"exitCode": 1}}))
    trainer = SimulatedTrainer([RUNS, Moment(failed, status("Failed", "FailJobSet", "job failed"))])
    with pytest.raises(StageError, match=r"^no column click$") as error:
        follow(trainer, log([walked(1), "exfm | failed 2 | train-fm fm | no column click"]))
    assert error.value.exit_code == 2
    assert capsys.readouterr().out.splitlines() == [walked(1)]
    assert "delete" not in trainer.done  # for those who look for reasons


def test_a_job_that_starts_again_after_a_reported_error_is_ended_by_the_step() -> None:
    again = Moment((pod(0, RUNNING, attempt=1), pod(1, RUNNING, attempt=1)))
    trainer = SimulatedTrainer([RUNS, again])
    with pytest.raises(StageError, match=r"^no column click$"):
        follow(trainer, log(["exfm | failed 2 | train-fm fm | no column click"], [walked(1)]))
    assert trainer.done == ["create", "delete"]


def test_a_job_that_fails_without_a_reported_error_says_why_by_the_cluster() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "loading tables"}}
    moment = Moment((pod(0, RUNNING), pod(1, killed)), status("Failed", "ReachedMaxRestarts", "3 restarts"))
    with pytest.raises(StageError, match=r"ReachedMaxRestarts: 3 restarts; exfm-fm-1-node-0-1-0: loading tables .*OOM"):
        follow(SimulatedTrainer([RUNS, moment]), log([]))


def test_a_suspended_job_is_told_once_and_waited_for() -> None:
    told = follow(SimulatedTrainer([Moment(suspended=True)] * 3 + [RUNS, COMPLETE]), log([]))
    assert [line for line in told if "suspended" in line] == [
        "TrainJob exfm-fm-1 is suspended; it goes on when `spec.suspend` is false again"
    ]


def test_what_keeps_a_job_from_starting_is_told_once_each() -> None:
    waiting = pod(1, {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}})
    quota = {
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "involvedObject": {"name": "exfm-fm-1-node-0"},
    }
    others = {**quota, "involvedObject": {"name": "another"}}
    moments = [Moment(events=(quota, others)), Moment((pod(0, RUNNING), waiting)), RUNS, COMPLETE]
    told = follow(SimulatedTrainer([moments[0], *moments]), log([]))
    assert [line for line in told if "exfm-fm-1: " in line] == [
        "TrainJob exfm-fm-1: exfm-fm-1-node-0: FailedCreate: exceeded quota",
        "TrainJob exfm-fm-1: exfm-fm-1-node-0-1-0: ImagePullBackOff: not found",
    ]


def test_a_job_under_way_is_followed_and_none_is_made() -> None:
    trainer = SimulatedTrainer([RUNS, RUNS, COMPLETE], existing=RUNS)
    assert "is under way already" in follow(trainer, log([]))[0]
    assert trainer.done == ["delete"]


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_job_that_has_ended_is_replaced(kind: str) -> None:
    trainer = SimulatedTrainer([RUNS, COMPLETE], existing=Moment((), status(kind)))
    assert "it is replaced" in follow(trainer, log([]))[0]
    assert trainer.done == ["delete", "create", "delete"]


def test_a_job_that_somebody_deletes_is_an_error() -> None:
    class Deleted(SimulatedTrainer):
        def get(self, kind: str, name: str) -> Object | None:
            return None

    with pytest.raises(StageError, match="was deleted by somebody else"):
        follow(Deleted([]), log([]))


def test_a_cancelled_step_deletes_its_job_and_leaves_the_signals_as_they_were() -> None:
    class Cancelled(SimulatedTrainer):
        def find(self, kind: str, *, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
            return []

    trainer, before = Cancelled([RUNS]), signal.getsignal(signal.SIGTERM)
    with pytest.raises(StoppedError, match="cancelled") as stopped:
        follow(trainer, log([]))
    assert stopped.value.exit_code == 143
    assert trainer.done == ["create", "delete"]
    assert signal.getsignal(signal.SIGTERM) == before
    assert isinstance(stopped.value, ExfmError)
