"""Why servers are not ready, in the words of the cluster: pods' reasons, Deployments' conditions, events."""

import re
from collections.abc import Iterator, Sequence
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
"""A container's reasons to wait that no waiting mends."""

_FATAL_REFUSALS = ("exceeded quota", "violates PodSecurity")
"""What an API server says of pods that it will not have."""

_MISSING_SECRET = re.compile(r'secrets "([^"]+)" not found')
"""What KServe says of a ServiceAccount that lists a Secret which is not there: its controller by a condition of the
InferenceService, before there is a Deployment, and its webhook of each pod."""

_TELLING_EVENTS = frozenset(
    {"InternalError", "FailedCreate", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox"}
)
"""Events that say what no status says; KServe tells by InternalError what it could not make."""

_MAX_CHARACTERS = 400


@dataclass(frozen=True)
class Problem:
    """One reason."""

    text: str
    fatal: bool
    """Whether no waiting mends it."""


def problems_of(
    service: Object, deployment: Object | None, pods: Sequence[Object], warnings: Sequence[Object]
) -> tuple[Problem, ...]:
    """Return what keeps an InferenceService from being ready, each reason once, those that no waiting mends first.

    `pods` are its own; `warnings` the namespace's.
    """
    found = [*_of_service(service), *_of_deployment(deployment), *(p for pod in pods for p in _of_pod(pod))]
    found += _of_events(warnings, names=_involved(service, deployment, pods))
    # Last, because they tell less: that a server waits, and what KServe makes of all that.
    found += [*(p for pod in pods for p in _of_waiting(pod)), *_of_conditions(service)]
    unique = {problem.text: problem for problem in sorted(found, key=lambda problem: problem.fatal)}
    return tuple(sorted(unique.values(), key=lambda problem: not problem.fatal))


def _of_service(service: Object) -> Iterator[Problem]:
    status = service.get("status", {}).get("modelStatus", {})
    failure = status.get("lastFailureInfo", {})
    # KServe never takes back the last failure, but the status that says whether it still is one.
    if failure and status.get("transitionStatus") == "InvalidSpec":
        yield Problem(_line(f"{failure['reason']}: {failure.get('message', '')}"), fatal=True)


def _of_conditions(service: Object) -> Iterator[Problem]:
    for condition in service.get("status", {}).get("conditions", []):
        if condition["status"] == "False" and condition.get("message"):
            if missing := _MISSING_SECRET.search(condition["message"]):
                yield Problem(_missing(missing[1], service["metadata"]["namespace"]), fatal=True)
                continue
            yield Problem(_line(f"{condition.get('reason', '')}: {condition['message']}"), fatal=False)


def _of_deployment(deployment: Object | None) -> Iterator[Problem]:
    for condition in (deployment or {}).get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            if missing := _MISSING_SECRET.search(condition["message"]):
                yield Problem(_missing(missing[1], (deployment or {})["metadata"]["namespace"]), fatal=True)
                continue
            # The text says which quota, and by how much. A webhook that cannot be called may come back.
            fatal = any(words in condition["message"] for words in _FATAL_REFUSALS)
            yield Problem(_line(f"{condition['reason']}: {condition['message']}"), fatal=fatal)


def _missing(secret: str, namespace: str) -> str:
    return (
        f"Secret {secret} is missing in namespace {namespace}, and without it KServe lets no pod be made that copies a "
        "bundle; make it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, as docs/operating.md says in 'Bundles in S3'"
    )


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
            said = (last.get("message") or "").strip().splitlines()
            how = f"{container['name']} ended with exit code {last['exitCode']}, {last.get('reason', '')}"
            yield Problem(
                _line(f"{name}: {said[-1] if said else 'no last words'} ({how})"), fatal=reason == "CrashLoopBackOff"
            )
        elif reason in _FATAL_WAITING or reason == "ErrImagePull":
            yield Problem(_line(f"{name}: {reason}: {waiting.get('message', '')}"), fatal=reason in _FATAL_WAITING)


def _of_waiting(pod: Object) -> Iterator[Problem]:
    """Yield that a pod's server runs and is not ready: its log alone says what it waits for."""
    name = pod["metadata"]["name"]
    for container in pod.get("status", {}).get("containerStatuses", []):
        if "deletionTimestamp" not in pod["metadata"] and "running" in container["state"] and not container["ready"]:
            yield Problem(f"{name} runs, but is not ready; see kubectl logs {name}", fatal=False)


def _of_events(warnings: Sequence[Object], *, names: frozenset[str]) -> Iterator[Problem]:
    for event in warnings:
        involved = event.get("involvedObject", {}).get("name", "")
        if involved in names and event.get("reason") in _TELLING_EVENTS:
            yield Problem(_line(f"{involved}: {event['reason']}: {event.get('message', '')}"), fatal=False)


def _involved(service: Object, deployment: Object | None, pods: Sequence[Object]) -> frozenset[str]:
    owners = {owner["name"] for pod in pods for owner in pod["metadata"].get("ownerReferences", [])}
    own = {service["metadata"]["name"], *(pod["metadata"]["name"] for pod in pods)}
    return frozenset(owners | own | ({deployment["metadata"]["name"]} if deployment else set()))


def _line(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip(" :")
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 3] + "..."
