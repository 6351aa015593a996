"""A TrainJob followed to its end: its log is passed on, and what keeps it from running is told.

Each look compares what there is with what was told; nothing depends on having seen an event.
"""

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from exfm.deploy.cluster import Cluster
from exfm.deploy.objects import Object
from exfm.deploy.problems import problems_of_pods
from exfm.errors import ClusterError, StageError, StoppedError
from exfm_components.progress import Progress, parse

POLL_S = 3.0
"""Time between two looks at a job, in seconds."""
LOG_END_S = 10.0
"""Time that the end of a log may take after the end of its job, in seconds."""
GONE_S = 120.0
"""Time that a deleted job and its pods may take to be gone, in seconds."""

JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
KIND = "TrainJob"

Log = Callable[[], Iterator[str]]
"""Yields rank 0's log from its start, until its pod ends; raises RuntimeError if the connection breaks."""
Report = Callable[[str], None]


def run_job(cluster: Cluster, job: Object, *, log: Log, report: Report) -> None:
    """Run a job to its end, pass on rank 0's log, and delete the job; one that is under way already is followed.

    A job of that name that has ended, or that has another image or other arguments, is replaced. A failed job stays,
    for those who look for its reasons. In the main thread SIGTERM ends the job.

    Raises: StageError if it fails, with the error that rank 0 reported, or else the cluster's reason; StoppedError if a
    signal ended this process; ClusterError if the API server refuses.
    """
    name = job["metadata"]["name"]
    with _stopping(cluster, name, report):
        found = cluster.get(KIND, name)
        if found is not None and (ended(found) or "deletionTimestamp" in found["metadata"] or _differ(found, job)):
            report(f"TrainJob {name} is of an earlier try and has ended, or has other settings; it is replaced")
            _remove(cluster, name)
            found = None
        if found is None:
            cluster.create(job)
            report(f"TrainJob {name} in namespace {cluster.namespace} begins: {_size(job)}")
        else:
            report(f"TrainJob {name} is under way already; this step follows it")
        _Following(cluster, name, log=log, report=report).to_the_end()
    _delete(cluster, name)


def ended(job: Object) -> str:
    """Return `Complete` or `Failed`; empty: it has not ended."""
    found = (kind for kind in ("Complete", "Failed") if _condition(job, kind).get("status") == "True")
    return next(found, "")


@dataclass
class _Stream:
    """A log that a thread reads for a pod."""

    pod: str
    """uid of the pod that runs rank 0."""
    num_read: int = 0
    """Lines that were read, also before the connection broke."""
    failed: Progress | None = None
    """The error that rank 0 reported."""
    thread: threading.Thread | None = None
    broken: bool = False

    @property
    def is_open(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


@dataclass
class _Following:
    """What was told of a job."""

    cluster: Cluster
    name: str
    log: Log
    report: Report
    lines: "queue.SimpleQueue[tuple[_Stream, str]]" = field(default_factory=queue.SimpleQueue)
    stream: _Stream | None = None
    told: set[str] = field(default_factory=set)
    phase: str = ""

    def to_the_end(self) -> None:
        while True:
            job = self.cluster.get(KIND, self.name)
            if job is None:
                raise StageError(f"TrainJob {self.name} was deleted by somebody else; run the step again")
            pods = self.cluster.find("Pod", labels={JOBSET_LABEL: self.name})
            outcome = ended(job)
            self._open(pods)
            if outcome:
                self._pass_on(until=lambda: not (self.stream and self.stream.is_open), at_most_s=LOG_END_S)
                if outcome == "Failed":
                    raise self._failure(job, pods)
                return
            self._tell(job, pods)
            self._pass_on(until=lambda: False, at_most_s=POLL_S)

    def _open(self, pods: list[Object]) -> None:
        """Read the log of rank 0's newest pod, or go on with it where the connection broke."""
        own = [pod for pod in pods if pod["metadata"]["labels"].get(INDEX_LABEL) == "0" and _has_started(pod)]
        if not own:
            return
        newest = max(own, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        uid = newest["metadata"]["uid"]
        if self.stream is None or self.stream.pod != uid:
            if self.stream and self.stream.failed:
                # The cluster saw another rank's end first, and starts again what would fail again.
                _delete(self.cluster, self.name)
                raise self.stream.failed.error
            if self.stream:
                self.report(f"rank 0 starts again, in pod {newest['metadata']['name']}")
                self.told.clear()
            self.stream = _Stream(uid)
        elif self.stream.is_open or (_has_ended(newest) and not self.stream.broken):
            return
        self.stream.thread = threading.Thread(target=self._read, args=(self.stream,), daemon=True)
        self.stream.thread.start()

    def _read(self, stream: _Stream) -> None:
        """Queue a log's lines but those that were read before the connection broke."""
        stream.broken = False
        try:
            for number, line in enumerate(self.log()):
                if number >= stream.num_read:
                    stream.num_read = number + 1
                    self.lines.put((stream, line))
        except (RuntimeError, TimeoutError):  # the SDK's, for whatever the connection ended by
            stream.broken = True

    def _pass_on(self, *, until: Callable[[], bool], at_most_s: float) -> None:
        """Print lines as they come."""
        deadline = time.monotonic() + at_most_s
        while (left_s := deadline - time.monotonic()) > 0:
            try:
                stream, line = self.lines.get(timeout=min(left_s, 0.2))
            except queue.Empty:
                if until():
                    return
                continue
            progress = parse(line)
            if progress and progress.event == "failed":  # this step reports it, if the job fails by it
                stream.failed = progress
            else:
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()

    def _tell(self, job: Object, pods: list[Object]) -> None:
        num_running = sum(pod.get("status", {}).get("phase") == "Running" for pod in pods)
        num_nodes = job["spec"]["trainer"]["numNodes"]
        if job["spec"].get("suspend"):
            phase = "is suspended; it goes on when `spec.suspend` is false again"
        elif num_running == num_nodes:
            phase = "runs"
        else:
            phase = f"waits for {num_nodes} pods, of which {num_running} run"
        if phase != self.phase:
            self.phase = phase
            self.report(f"TrainJob {self.name} {phase}")
        for problem in self._problems(pods):
            if problem not in self.told:
                self.told.add(problem)
                self.report(f"TrainJob {self.name}: {problem}")

    def _problems(self, pods: list[Object]) -> tuple[str, ...]:
        warnings = self.cluster.find("Event", fields="type=Warning")
        return problems_of_pods(pods, warnings, owners=(self.name, f"{self.name}-node-0"))

    def _failure(self, job: Object, pods: list[Object]) -> StageError:
        if self.stream and self.stream.failed:
            return self.stream.failed.error
        condition = _condition(job, "Failed")
        reasons = [f"{condition.get('reason', '')}: {condition.get('message', '')}", *self._problems(pods)]
        return StageError(f"TrainJob {self.name} failed: {'; '.join(reasons)}")


@contextmanager
def _stopping(cluster: Cluster, name: str, report: Report) -> Iterator[None]:
    """Delete a job if SIGTERM comes, by which Kubeflow Pipelines cancels a step."""

    def stop(number: int, frame: Any) -> None:
        raise StoppedError(f"the step was cancelled; TrainJob {name} is deleted", exit_code=128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, stop) if is_main else None
    try:
        yield
    except StoppedError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not keep the job from being deleted
        report(f"the step is cancelled: TrainJob {name} is being deleted")
        _delete(cluster, name)
        raise
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _delete(cluster: Cluster, name: str) -> None:
    """Delete a job, and have the cluster delete its pods.

    The job goes first: Trainer 2.3 starts new pods for a job that waits for the end of its old ones.
    """
    cluster.delete(KIND, name, owned_first=False)


def _remove(cluster: Cluster, name: str) -> None:
    """Delete a job, and wait until it and its pods are gone."""
    _delete(cluster, name)
    deadline = time.monotonic() + GONE_S
    while cluster.get(KIND, name) is not None or cluster.find("Pod", labels={JOBSET_LABEL: name}):
        if time.monotonic() > deadline:
            raise ClusterError(
                f"TrainJob {name} was deleted {GONE_S:g} s ago, and it or a pod of it is still there; look for them by "
                f"`kubectl get trainjobs,pods -n {cluster.namespace} | grep {name}`"
            )
        time.sleep(min(POLL_S, 1.0))


def _differ(found: Object, job: Object) -> bool:
    return any(found["spec"]["trainer"].get(key) != job["spec"]["trainer"].get(key) for key in ("image", "args"))


def _size(job: Object) -> str:
    trainer = job["spec"]["trainer"]
    resources = ", ".join(f"{key} {value}" for key, value in trainer["resourcesPerNode"]["limits"].items())
    return f"{trainer['numNodes']} nodes of {trainer['numProcPerNode']} processes; a node has {resources}"


def _condition(job: Object, kind: str) -> Object:
    conditions = job.get("status", {}).get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _states(pod: Object) -> list[Object]:
    return [container.get("state", {}) for container in pod.get("status", {}).get("containerStatuses", [])]


def _has_started(pod: Object) -> bool:
    return any({"running", "terminated"} & state.keys() for state in _states(pod))


def _has_ended(pod: Object) -> bool:
    return bool(_states(pod)) and all("terminated" in state for state in _states(pod))
