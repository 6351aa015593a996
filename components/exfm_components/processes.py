"""Which processes train a foundation model: this one, several on this machine, or those of a TrainJob."""

import json
import os
from collections.abc import Callable

from exfm.deploy.cluster import Cluster, ForbiddenError, pod_namespace
from exfm.deploy.preflight import missing_rights
from exfm.environment import IMAGE
from exfm.foundation.config import FoundationConfig
from exfm_components.data_augmentation import das_of
from exfm_components.run_config import RunConfig

RIGHTS = {
    ("trainer.kubeflow.org", "trainjobs"): ("create", "get", "delete"),
    ("trainer.kubeflow.org", "trainingruntimes"): ("get",),
    ("", "pods"): ("list",),
    ("", "pods/log"): ("get",),
    ("", "events"): ("list",),
}
"""Verbs by API group and resource that a step uses to follow a TrainJob."""

RUNTIME = "exfm-torchrec"
"""The ClusterTrainingRuntime of manifests/components/trainer."""

LAUNCHER = ("-m", "exfm_components.launcher")
"""Arguments of Python that start a node's processes; torchrun's options follow."""
RANK = ("-m", "exfm_components.rank")
"""What each of them runs; `arguments_of` follows."""

REMEDY = "apply manifests/components/trainer, or set trainer.enabled in the chart"


def arguments_of(run: RunConfig, foundation: FoundationConfig) -> str:
    """Return what tells each process the run and the model, as JSON."""
    return json.dumps({"run": run.to_dict(), "root": run.root, "foundation_model": foundation.to_dict()})


def trains_apart(foundation: FoundationConfig) -> bool:
    """Return whether processes of their own train a model: several, or one with a GPU."""
    training = foundation.training
    return not foundation.published and (training.num_processes > 1 or training.gpu)


def trains_by_job(foundation: FoundationConfig) -> bool:
    """Return whether a TrainJob trains a model: processes of their own, of a step in a pod."""
    return trains_apart(foundation) and IMAGE in os.environ


def train_apart(run: RunConfig, foundation: FoundationConfig, *, report: Callable[[str], None]) -> None:
    """Have the processes of a model do what is due for it; the tables below the root have what they did.

    They do not begin if nothing is due.

    Raises: StageError with the error of rank 0, or the cluster's; StoppedError if the step is cancelled; ClusterError
    if the API server refuses; ConfigError.
    """
    from exfm.das.advance import is_due  # both import torch
    from exfm.foundation.line import foundation_line

    if not is_due(das_of(run), foundation_line(foundation, run.feature_schema)):
        return
    if trains_by_job(foundation):
        from exfm_components.job_following import run_job
        from exfm_components.train_job import log_of, train_job  # the kubeflow SDK, which takes seconds

        job, cluster = train_job(run, foundation), Cluster.connect(namespace=pod_namespace())
        run_job(cluster, job, log=log_of(cluster, job["metadata"]["name"]), report=report)
    else:
        from exfm_components.local_ranks import train_here

        train_here(run, foundation, report=report)


def missing_for_jobs(cluster: Cluster) -> str:
    """Return what this account's namespace lacks for TrainJobs, and what to do; empty if nothing.

    Raises: ClusterError if the cluster has no Kubeflow Trainer, or does not answer.
    """
    try:
        runtime = cluster.get("ClusterTrainingRuntime", RUNTIME)
    except ForbiddenError:
        return f"this account may not read ClusterTrainingRuntimes: {REMEDY}"
    if runtime is None:
        return f"the cluster has no ClusterTrainingRuntime {RUNTIME}: {REMEDY}"
    lacking = missing_rights(cluster, RIGHTS)
    if lacking:
        return f"this account may not {', '.join(lacking)} in namespace {cluster.namespace}: {REMEDY}"
    return ""
