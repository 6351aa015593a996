"""How a pipeline's steps run on a Kubeflow cluster: read when the pipeline is compiled."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from exfm.config import Config
from exfm.deploy.config import KubernetesName, Millicores

Step = Literal[
    "check", "ingest", "label", "train-fm", "join", "compare", "train-vm", "bundle", "judge", "register",
    "smoke-test", "report", "deploy",
]  # fmt: skip


ENDPOINTS = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
"""Keys of the platform's ConfigMap that a step's environment takes endpoints from."""
CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
"""Keys of the platform's Secret that it takes credentials from."""


REMOVED_STEPS = {"ask": "its name is smoke-test now", "pseudo-label": "train-fm scores, too"}


class StepResources(Config):
    """Resources of one step."""

    cpu_request_m: Millicores = 200
    """CPU request, in thousandths of a core; 1 to 256,000. At most 200 count for a step that only follows TrainJobs."""
    cpu_limit_m: Millicores = 2_000
    """CPU limit, in thousandths of a core; 1 to 256,000, at least the request."""
    memory_mib: Annotated[int, Field(ge=64, le=16_777_216)] = 1_024
    """Memory limit, and request but for at most 1,024 of a step that only follows TrainJobs, in MiB; 64 to 16,777,216.
    What a step needs grows with a log's largest window and a model's tables."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.cpu_limit_m < self.cpu_request_m:
            raise ValueError(f"cpu_limit_m {self.cpu_limit_m} is less than cpu_request_m {self.cpu_request_m}")
        return self


class Toleration(Config):
    """A taint of nodes that steps tolerate, as Kubernetes writes it."""

    key: str = ""
    """Key of the taint; empty, with operator `Exists`: every taint."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """Whether the taint must have `value`, or any."""
    value: str = ""
    """Value of the taint; for `Equal`."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect of the taint; empty: all effects."""


class PlatformConfig(Config):
    """How steps run on a Kubeflow cluster."""

    steps: dict[Step, StepResources] = {}
    """Resources by step; a step that is not named has its default (docs/measurements.md)."""
    max_parallel: Annotated[int, Field(ge=1, le=1_000)] = 8
    """Foundation models, and vertical models, that are trained at the same time; 1 to 1,000."""
    backfill_pods: Annotated[int, Field(ge=1, le=100)] = 1
    """Pods that share the windows of a backfill; 1 to 100. Each pod labels, joins, and scores by published models. A
    run with one window that is due needs none. 1: one step after the other does all windows."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """Retries of a step whose pod was lost, such as by an eviction; 0 to 10. 0: none. Every step may be repeated. If a
    step that ends with an error is retried, too, is for Argo's configuration to say; Kubeflow's own (`OnError`) does
    not."""
    backoff_s: Annotated[int, Field(ge=1, le=3_600)] = 30
    """Time before a step's first retry, in seconds, doubled before each further one; 1 to 3,600."""
    timeout_s: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    """Time after which a step is ended, in seconds; 60 to 2,592,000 (30 days)."""
    node_selector: dict[str, str] = {}
    """Labels of the nodes that steps run on; empty: all nodes."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints that steps tolerate; empty: none."""
    image_pull_secrets: tuple[KubernetesName, ...] = ()
    """Names of Secrets of a private registry, in the namespace where steps run; empty: none."""
    config_map: KubernetesName = "exfm"
    """ConfigMap in that namespace with endpoints: MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION."""
    secret: KubernetesName = "exfm"
    """Secret in that namespace with credentials: AWS_ACCESS_KEY_ID and so on (docs/pipelines.md)."""

    @field_validator("steps", mode="before")
    @classmethod
    def _refuse_removed_steps(cls, steps: Any) -> Any:
        for name, remedy in REMOVED_STEPS.items() if isinstance(steps, Mapping) else ():
            if name in steps:
                raise ValueError(f"{name} is no longer a step: {remedy}")
        return steps

    def of(self, step: Step) -> StepResources:
        """Return a step's resources."""
        return self.steps.get(step) or DEFAULTS.get(step, StepResources())


DEFAULTS: dict[Step, StepResources] = {
    "train-fm": StepResources(cpu_request_m=500, memory_mib=2_048),
    "compare": StepResources(cpu_request_m=500, memory_mib=2_048),
    "train-vm": StepResources(cpu_request_m=500),
    "smoke-test": StepResources(memory_mib=2_048),  # it starts every shard and a ranker
}
"""Resources of the steps that need more than the others."""

FOLLOWER = StepResources()
"""Upper bound of what a step requests that only follows TrainJobs; `cpu_limit_m` is not used. The limits do not change,
because the step publishes the model."""
