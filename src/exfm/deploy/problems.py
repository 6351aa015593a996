"""Why servers are not ready, as the cluster reports it: pods' reasons, Deployments' conditions, events."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from exfm.deploy.objects import Object

_FATAL_WAITING = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""A waiting container's reasons that do not go away with time."""

_FATAL_REFUSALS = ("exceeded quota", "violates PodSecurity")
"""Parts of an API server's messages about pods that it refuses."""

_MISSING_SECRET = re.compile(r'secrets "([^"]+)" not found')
"""KServe's message when a ServiceAccount lists a Secret that does not exist. Its controller puts it into a condition of
the InferenceService, before there is a Deployment; its webhook refuses each pod with it."""

_EVENTS_SHOWN = frozenset(
    {"InternalError", "FailedCreate", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}
)
"""Events with reasons that no status has; KServe reports by InternalError what it could not make."""

_MAX_CHARACTERS = 400


@dataclass(frozen=True)
class Problem:
    """A reason why a server is not ready."""

    text: str
    fatal: bool
    """Whether waiting cannot solve it."""


def problems_of(
    service: Object, deployment: Object | None, pods: Sequence[Object], warnings: Sequence[Object]
) -> tuple[Problem, ...]:
    """Return what keeps an InferenceService from being ready, each reason once, fatal ones first.

    `pods` are its own; `warnings` are events of the whole namespace.
    """
    found = [*_of_service(service), *_of_deployment(deployment), *(p for pod in pods for p in _of_pod(pod))]
    found += _of_events(warnings, names=_involved(service, deployment, pods))
    # Less specific problems come last: that a server waits, and KServe's own summary.
    found += [*(p for pod in pods for p in _of_waiting(pod)), *_of_conditions(service)]
    unique = {problem.text: problem for problem in sorted(found, key=lambda problem: problem.fatal)}
    return tuple(sorted(unique.values(), key=lambda problem: not problem.fatal))


def problems_of_pods(
    pods: Sequence[Object], warnings: Sequence[Object], *, owners: Collection[str] = ()
) -> tuple[str, ...]:
    """Return what keeps pods from running, or ended them, each reason once.

    `warnings` are events of the whole namespace; `owners` are names of objects that pods are made for, which may have
    events while there is no pod.
    """
    found = [problem for pod in pods for problem in _of_pod(pod)]
    found += _of_events(
        warnings, names=frozenset({pod["metadata"]["name"] for pod in pods} | _owners(pods) | {*owners})
    )
    return tuple({problem.text: None for problem in found})


def _of_service(service: Object) -> Iterator[Problem]:
    status = service.get("status", {}).get("modelStatus", {})
    failure = status.get("lastFailureInfo", {})
    # KServe never removes the last failure; transitionStatus says whether it still holds.
    if failure and status.get("transitionStatus") == "InvalidSpec":
        yield Problem(_line(f"{failure['reason']}: {failure.get('message', '')}"), fatal=True)


def _of_conditions(service: Object) -> Iterator[Problem]:
    for condition in service.get("status", {}).get("conditions", []):
        if condition["status"] == "False" and condition.get("message"):
            yield _missing_secret(condition, service) or Problem(
                _line(f"{condition.get('reason', '')}: {condition['message']}"), fatal=False
            )


def _of_deployment(deployment: Object | None) -> Iterator[Problem]:
    for condition in (deployment or {}).get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            # The message names the quota and the amounts. A webhook that cannot be called may come back.
            fatal = any(words in condition["message"] for words in _FATAL_REFUSALS)
            yield _missing_secret(condition, deployment or {}) or Problem(
                _line(f"{condition['reason']}: {condition['message']}"), fatal=fatal
            )


def _missing_secret(condition: Object, of: Object) -> Problem | None:
    """Return the problem if a condition of an object is about a Secret that does not exist."""
    if found := _MISSING_SECRET.search(condition["message"]):
        return Problem(
            f"Secret {found[1]} is missing in namespace {of['metadata']['namespace']}; without it KServe creates no "
            "pod that copies a bundle; create it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, see 'Bundles in "
            "S3' in docs/operating.md",
            fatal=True,
        )
    return None


def _of_pod(pod: Object) -> Iterator[Problem]:
    name, status = pod["metadata"]["name"], pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield Problem(_line(f"{condition.get('reason', '')}: {condition.get('message', '')}"), fatal=False)
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting = container.get("state", {}).get("waiting", {})
        reason = waiting.get("reason", "")
        last = container.get("lastState", {}).get("terminated") or container.get("state", {}).get("terminated") or {}
        if last.get("exitCode", 0) != 0:
            printed = (last.get("message") or "").strip().splitlines()
            how = f"{container['name']} ended with exit code {last['exitCode']}, {last.get('reason', '')}"
            yield Problem(
                _line(f"{name}: {printed[-1] if printed else 'no message'} ({how})"), fatal=reason == "CrashLoopBackOff"
            )
        elif reason in _FATAL_WAITING or reason == "ErrImagePull":
            yield Problem(_line(f"{name}: {reason}: {waiting.get('message', '')}"), fatal=reason in _FATAL_WAITING)


def _of_waiting(pod: Object) -> Iterator[Problem]:
    """Yield that a pod's server runs and is not ready; only its log shows why."""
    name = pod["metadata"]["name"]
    for container in pod.get("status", {}).get("containerStatuses", []):
        if "deletionTimestamp" not in pod["metadata"] and "running" in container["state"] and not container["ready"]:
            yield Problem(f"{name} runs, but is not ready; see kubectl logs {name}", fatal=False)


def _of_events(warnings: Sequence[Object], *, names: frozenset[str]) -> Iterator[Problem]:
    for event in warnings:
        involved = event.get("involvedObject", {}).get("name", "")
        if involved in names and event.get("reason") in _EVENTS_SHOWN:
            yield Problem(_line(f"{involved}: {event['reason']}: {event.get('message', '')}"), fatal=False)


def _involved(service: Object, deployment: Object | None, pods: Sequence[Object]) -> frozenset[str]:
    own = {service["metadata"]["name"], *(pod["metadata"]["name"] for pod in pods)}
    return frozenset(_owners(pods) | own | ({deployment["metadata"]["name"]} if deployment else set()))


def _owners(pods: Sequence[Object]) -> set[str]:
    return {owner["name"] for pod in pods for owner in pod["metadata"].get("ownerReferences", [])}


def _line(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip(" :")
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."
