from typing import Any

from exfm.deploy.problems import problems_of

SERVICE: Any = {"metadata": {"name": "students-v2-s0"}}


def pod(*, container: Any = None, init: Any = None, conditions: Any = (), deleted: bool = False) -> Any:
    return {
        "metadata": {"name": "p", **({"deletionTimestamp": "now"} if deleted else {})},
        "status": {
            "conditions": list(conditions),
            "initContainerStatuses": [init] if init else [],
            "containerStatuses": [container] if container else [],
        },
    }


def texts(*, fatal: bool, **found: Any) -> list[str]:
    arguments = {"deployment": None, "pods": [], "warnings": [], **found}
    return [problem.text for problem in problems_of(SERVICE, **arguments) if problem.fatal is fatal]


def test_the_problem_of_a_server_in_a_crash_loop_is_its_last_line() -> None:
    ended = {
        "name": "kserve-container",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
        "lastState": {
            "terminated": {"exitCode": 2, "reason": "Error", "message": "warming up\nerror: tables are damaged\n"}
        },
    }
    assert texts(fatal=True, pods=[pod(container=ended)]) == [
        "p: error: tables are damaged (kserve-container ended with exit code 2, Error)"
    ]


def test_a_server_that_ended_once_may_come_back() -> None:
    ended = {
        "name": "kserve-container",
        "state": {"running": {}},
        "ready": True,
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }
    assert texts(fatal=False, pods=[pod(container=ended)]) == [
        "p: no message (kserve-container ended with exit code 137, OOMKilled)"
    ]


def test_a_copy_that_fails_is_a_problem_of_its_init_container() -> None:
    failed = {
        "name": "storage-initializer",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": "NoSuchBucket"}},
    }
    [text] = texts(fatal=True, pods=[pod(init=failed)])
    assert "NoSuchBucket (storage-initializer ended with exit code 1" in text


def test_an_image_that_cannot_be_pulled_ends_the_wait_once_the_kubelet_backs_off() -> None:
    first = {"name": "c", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
    later = {"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling x"}}}
    assert texts(fatal=False, pods=[pod(container=first)]) == ["p: ErrImagePull: not found"]
    assert texts(fatal=True, pods=[pod(container=later)]) == ["p: ImagePullBackOff: Back-off pulling x"]


def test_a_rollout_waits_for_a_pod_that_no_node_admits() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    assert texts(fatal=False, pods=[pod(conditions=[condition])]) == ["Unschedulable: 0/1 nodes"]


def test_a_pod_that_is_ending_is_no_problem() -> None:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}
    assert not problems_of(SERVICE, None, [pod(conditions=[condition], deleted=True)], [])


def test_a_quota_that_refuses_pods_ends_the_wait() -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: q"}
    deployment = {"metadata": {"name": "d"}, "status": {"conditions": [condition]}}
    assert texts(fatal=True, deployment=deployment) == ["FailedCreate: exceeded quota: q"]


def test_a_volume_that_cannot_be_mounted_is_a_problem_by_its_event() -> None:
    own = {"reason": "FailedMount", "message": "no claim", "involvedObject": {"name": "p"}}
    other = {"reason": "FailedMount", "message": "no claim", "involvedObject": {"name": "other"}}
    noise = {"reason": "Unhealthy", "message": "probe", "involvedObject": {"name": "p"}}
    assert texts(fatal=False, pods=[pod()], warnings=[own, other, noise]) == ["p: FailedMount: no claim"]


def test_a_long_message_is_cut() -> None:
    waiting = {"name": "c", "state": {"waiting": {"reason": "ErrImagePull", "message": "x" * 1_000}}}
    [text] = texts(fatal=False, pods=[pod(container=waiting)])
    assert len(text) == 400
    assert text.endswith("...")


def test_a_webhook_that_cannot_be_called_may_come_back() -> None:
    message = 'Internal error occurred: failed calling webhook "pod-mutator": connection refused'
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    deployment = {"metadata": {"name": "d"}, "status": {"conditions": [condition]}}
    assert texts(fatal=False, deployment=deployment) == [f"FailedCreate: {message}"]


def test_a_missing_secret_of_a_service_account_ends_the_wait_and_is_named() -> None:
    message = (
        'admission webhook "inferenceservice.kserve-webhook-server.pod-mutator" denied the request: '
        'secrets "exfm-s3" not found'
    )
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    deployment = {"metadata": {"name": "d", "namespace": "models"}, "status": {"conditions": [condition]}}
    [text] = texts(fatal=True, deployment=deployment)
    assert text.startswith("Secret exfm-s3 is missing in namespace models; without it KServe creates no pod")
    assert (
        "create it with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, see 'Bundles in S3' in docs/operating.md" in text
    )
    assert texts(fatal=False, deployment=deployment) == []


def test_a_missing_secret_is_named_before_kserve_makes_a_deployment() -> None:
    message = 'fails to create NewRawKubeReconciler for predictor: secrets "exfm-s3" not found'
    of_both = [
        {"type": kind, "status": "False", "reason": "ReconcileFailed", "message": message}
        for kind in ("PredictorReady", "Ready")
    ]
    service = {"metadata": {"name": "students-v1-s0", "namespace": "models"}, "status": {"conditions": of_both}}
    events = [{"reason": "InternalError", "message": message, "involvedObject": {"name": "students-v1-s0"}}]
    first, *others = problems_of(service, None, [], events)
    assert first.text.startswith("Secret exfm-s3 is missing in namespace models")
    assert first.fatal
    assert [problem.fatal for problem in others] == [False]


def test_a_rollout_reports_what_another_webhook_denies_and_waits() -> None:
    message = 'admission webhook "policy" denied the request: no owner label'
    condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}
    deployment = {"metadata": {"name": "d"}, "status": {"conditions": [condition]}}
    assert texts(fatal=False, deployment=deployment) == [f"FailedCreate: {message}"]


def test_an_old_failure_that_kserve_still_shows_is_no_problem() -> None:
    status = {"transitionStatus": "UpToDate", "lastFailureInfo": {"reason": "RuntimeNotRecognized", "message": "m"}}
    service = {**SERVICE, "status": {"modelStatus": status}}
    assert problems_of(service, None, [], []) == ()
    [now] = problems_of(
        {**SERVICE, "status": {"modelStatus": {**status, "transitionStatus": "InvalidSpec"}}}, None, [], []
    )
    assert (now.text, now.fatal) == ("RuntimeNotRecognized: m", True)


def test_the_problem_of_a_server_that_is_not_ready_names_its_log() -> None:
    waiting = {"name": "kserve-container", "state": {"running": {}}, "ready": False}
    assert texts(fatal=False, pods=[pod(container=waiting)]) == ["p runs, but is not ready; see kubectl logs p"]
    ready = {**waiting, "ready": True}
    assert texts(fatal=False, pods=[pod(container=ready)]) == []


def test_conditions_of_an_inference_service_come_last() -> None:
    condition = {"type": "Ready", "status": "False", "reason": "ReconcileError", "message": "no such class"}
    service = {**SERVICE, "status": {"conditions": [condition]}}
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    found = problems_of(service, None, [pod(conditions=[unplaced])], [])
    assert [problem.text for problem in found] == ["Unschedulable: 0/1 nodes", "ReconcileError: no such class"]
