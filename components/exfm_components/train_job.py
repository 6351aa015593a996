"""The TrainJob that trains a foundation model on several processes, and its log: all that needs the kubeflow SDK.

The SDK's own `train` sets no variables from a ConfigMap or Secret (0.5.0), so the object is made here, and checked by
the SDK's classes of the API.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator

from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
from kubeflow.trainer.constants import constants
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from exfm.artifact.stores import is_local
from exfm.deploy.cluster import Cluster
from exfm.deploy.objects import MANAGER, Object
from exfm.environment import IMAGE
from exfm.errors import ConfigError
from exfm.foundation.config import FoundationConfig
from exfm_components.platform import CREDENTIALS, ENDPOINTS, PlatformConfig
from exfm_components.processes import LAUNCHER, RANK, RUNTIME, arguments_of
from exfm_components.run_config import RunConfig

GPU = "nvidia.com/gpu"


def job_name(foundation: FoundationConfig, *, root: str) -> str:
    """Return the name of a model's TrainJob, the same for each run and each retry of a step with this root."""
    digest = hashlib.sha256(json.dumps([root, foundation.name]).encode()).hexdigest()
    # A pod's name is this and 15 characters more, and has 63 at most.
    return f"exfm-{foundation.name.replace('_', '-')}-{digest[:8]}"


def train_job(run: RunConfig, foundation: FoundationConfig) -> Object:
    """Return the TrainJob of one of a run's foundation models, for the image that this step runs in.

    Raises: ConfigError if the environment does not name the step's image, or if other pods cannot reach the root.
    """
    if is_local(run.root):
        raise ConfigError(
            f"root {run.root} is on this pod's disk, which a TrainJob's pods cannot read; name an s3:// URL"
        )
    image = os.environ.get(IMAGE, "")
    if not image:
        raise ConfigError(
            f"{IMAGE} is not set, so the image of the TrainJob is unknown; compile the pipeline by `exfm pipelines "
            "compile`, or set the variable to the step's image"
        )
    training = foundation.training
    spec = {
        "runtimeRef": {"name": RUNTIME},
        "trainer": {
            "image": image,
            "command": ["python", *LAUNCHER, *RANK],
            "args": [arguments_of(run, foundation)],
            "env": [*_environment(run.platform), {"name": "OMP_NUM_THREADS", "value": str(training.torch_threads)}],
            "numNodes": training.nodes,
            "numProcPerNode": training.processes_per_node,
            "resourcesPerNode": _resources(run.platform, num_gpus=training.processes_per_node * training.gpu),
        },
        "runtimePatches": _patches(run.platform),
    }
    labels = {"name": "exfm", "component": "trainer", "part-of": "exfm", "managed-by": MANAGER}
    metadata = {
        "name": job_name(foundation, root=run.root),
        "labels": {f"app.kubernetes.io/{key}": value for key, value in labels.items()},
        "annotations": {"exfm.dev/root": run.root, "exfm.dev/foundation-model": foundation.name},
    }
    made = TrainerV1alpha1TrainJob.from_dict(
        {"apiVersion": constants.API_VERSION, "kind": constants.TRAINJOB_KIND, "metadata": metadata, "spec": spec}
    )
    assert made is not None
    return dict(made.to_dict())


def log_of(cluster: Cluster, name: str) -> Callable[[], Iterator[str]]:
    """Return a function that yields the lines of rank 0's log from its start, as they come, until its pod ends.

    The iterator raises RuntimeError if the connection breaks.
    """
    config = KubernetesBackendConfig(namespace=cluster.namespace, client_configuration=cluster.configuration)
    client = TrainerClient(config)
    return lambda: client.get_job_logs(name, step=f"{constants.NODE}-0", follow=True)


def _environment(platform: PlatformConfig) -> list[Object]:
    """Return the variables of stores that a step has, as references to its ConfigMap and Secret; all are optional."""
    sources = (("configMapKeyRef", platform.config_map, ENDPOINTS), ("secretKeyRef", platform.secret, CREDENTIALS))
    return [
        {"name": key, "valueFrom": {source: {"name": name, "key": key, "optional": True}}}
        for source, name, keys in sources
        for key in keys
        if key.startswith("AWS_")
    ]


def _resources(platform: PlatformConfig, *, num_gpus: int) -> Object:
    wanted = platform.of("train-fm")
    shared = {"memory": f"{wanted.memory_mib}Mi"} | ({GPU: str(num_gpus)} if num_gpus else {})
    return {
        "requests": {"cpu": f"{wanted.cpu_request_m}m", **shared},
        "limits": {"cpu": f"{wanted.cpu_limit_m}m", **shared},
    }


def _patches(platform: PlatformConfig) -> list[Object]:
    """Return the changes to the runtime's pods: where they go, and by which Secrets their image is pulled."""
    tolerations = [toleration.model_dump(exclude_defaults=True) for toleration in platform.tolerations]
    pod = {
        "nodeSelector": platform.node_selector,
        "tolerations": [{"operator": "Equal", **toleration} for toleration in tolerations],
        "imagePullSecrets": [{"name": name} for name in platform.image_pull_secrets],
    }
    pod = {field: value for field, value in pod.items() if value}
    node = {"name": constants.NODE, "template": {"spec": {"template": {"spec": pod}}}}
    changed = {"template": {"spec": {"replicatedJobs": [node]}}}
    return [{"manager": "exfm.dev/train-fm", "trainingRuntimeSpec": changed}] if pod else []
