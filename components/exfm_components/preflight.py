"""The pipeline's first step: within seconds it checks a run's settings, and that what the run needs exists."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from uuid import uuid4

from exfm.artifact.stores import exists, is_local, join, remove_file, write_file
from exfm.deploy.cluster import Cluster, pod_namespace
from exfm.deploy.preflight import missing
from exfm.errors import ConfigError, ExfmError
from exfm.events.sources import require_source
from exfm.foundation.published import published_model
from exfm.registry.champion import comparable_champion
from exfm.registry.mlflow_registry import Registry
from exfm_components import layout
from exfm_components.deployment import readable_uri
from exfm_components.processes import missing_for_jobs, trains_by_job
from exfm_components.run_config import RunConfig

DEADLINE_S = 10.0
"""Timeout of all probes together."""

Probe = Callable[[], object]
"""Raises an ExfmError that names what is missing."""


def check_run(run: RunConfig) -> str:
    """Return one line about what was checked: the settings, store, source, registry and cluster.

    Raises: ConfigError with a line for each thing that is missing.
    """
    probes: dict[str, Probe] = {
        "settings": lambda: run.check(is_counted=False),
        f"store {run.root}": lambda: _require_store(run.root),
        f"source {run.source.kind}": lambda: require_source(run.source),
    }
    # A local root's own registry is made when it is needed.
    if "MLFLOW_TRACKING_URI" in os.environ or not is_local(run.root) or exists(join(run.root, "registry")):
        probes["registry"] = lambda: _require_registry(run)
    if run.deploy:
        probes[f"cluster, namespace {run.deployment.settings.namespace}"] = lambda: _require_cluster(run)
    if any(map(trains_by_job, run.foundation_models)):
        probes["Kubeflow Trainer"] = _require_trainer
    for model in run.foundation_models:
        if model.published:
            probes[f"foundation model {model.published}"] = partial(published_model, model, run.feature_schema)
    failures = failures_of(probes, deadline_s=DEADLINE_S)
    if failures:
        raise ConfigError("\n".join(failures))
    return f"{', '.join(probes)}: there"


def failures_of(probes: Mapping[str, Probe], *, deadline_s: float) -> list[str]:
    """Return the failures of probes, a line each; they run at the same time, each for at most `deadline_s`."""
    found = {name: f"{name}: ended without a result; see the log" for name in probes}

    def run(name: str, probe: Probe) -> None:
        try:
            probe()
        except ExfmError as error:
            found[name] = f"{name}: {error}"
        else:
            found[name] = ""

    # Daemons, so that a probe that hangs does not keep the step from ending.
    threads = {name: threading.Thread(target=run, args=(name, probe), daemon=True) for name, probe in probes.items()}
    for thread in threads.values():
        thread.start()
    give_up_s = time.monotonic() + deadline_s
    for thread in threads.values():
        thread.join(max(0.0, give_up_s - time.monotonic()))
    late = {name for name, thread in threads.items() if thread.is_alive()}
    return [
        f"{name}: no answer within {deadline_s:g} s; check its address and the network" if name in late else found[name]
        for name in probes
        if name in late or found[name]
    ]


def _require_store(root: str) -> None:
    probe = join(root, f".exfm-check-{uuid4().hex}")
    write_file(probe, b"")
    remove_file(probe)


def _require_registry(run: RunConfig) -> None:
    registry = Registry.at(run.root, create=True)
    registry.require()
    for model in run.vertical_models:
        comparable_champion(registry, model.name)


def _require_cluster(run: RunConfig) -> None:
    readable_uri([layout.bundles(run.root, "NAME")], root=run.root, served_root=run.deployment.served_root)
    lacking = missing(Cluster.connect(namespace=run.deployment.settings.namespace))
    if lacking:
        raise ConfigError("; ".join(lacking))


def _require_trainer() -> None:
    lacking = missing_for_jobs(Cluster.connect(namespace=pod_namespace()))
    if lacking:
        raise ConfigError(lacking)
