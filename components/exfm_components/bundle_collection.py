"""Which of a vertical model's bundles under a root can be removed: those that no server, rollback or alias uses.

As in exfm_components.deployment, the registry and the cluster meet here.
"""

import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exfm.artifact.bundle import find_bundle
from exfm.artifact.output import remove_folder
from exfm.artifact.storage import MANIFEST
from exfm.artifact.stores import exists, join, list_folders, modified_s
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.observation import observe
from exfm.deploy.rollout import collect
from exfm_components import layout

if TYPE_CHECKING:
    from exfm.registry.mlflow_registry import Registry

MIN_AGE_S = 24 * 60 * 60
"""A run registers its bundles some steps after it wrote them; until then only their age protects them."""


@dataclass(frozen=True)
class FinishedBundle:
    """A bundle under a root."""

    bundle_id: str
    written_s: float
    """Unix time at which its manifest was written."""


def unnamed(bundles: Sequence[FinishedBundle], *, named: Collection[str], now_s: float) -> list[str]:
    """Return the ids of the bundles to remove, in order: not named, and at least MIN_AGE_S old."""
    return [
        bundle.bundle_id
        for bundle in bundles
        if bundle.bundle_id not in named and now_s - bundle.written_s >= MIN_AGE_S
    ]


def collect_bundles(
    root: str, *, name: str, cluster: Cluster, registry: "Registry", report: Callable[[str], None], now_s: float
) -> None:
    """Remove the bundles of a vertical model under a root that nothing names.

    Bundles are compared by their ids: pods may know the root by another name. An unfinished bundle, which has no
    manifest, stays.

    Raises: DeployError, ConfigError or StorageError if the cluster, the registry or the store cannot be read;
    nothing was removed then. StorageError if one cannot be removed.
    """
    folder = layout.bundles(root, name)
    bundles = _finished(folder)  # listed first, so that a bundle written from here on is not in the list
    newest = find_bundle(folder).rpartition("/")[2]
    served_ids = {release.bundle_id for release in observe(cluster, name).releases()}
    named = {newest, *served_ids, *(registry.named_bundle_ids(name) or ())}
    gone = unnamed(bundles, named=named, now_s=now_s)
    for bundle_id in gone:
        remove_folder(layout.bundle(root, name, bundle_id))
        report(f"{name}: removed bundle {bundle_id[:12]}")
    if not gone:
        report(f"{name}: no bundle to remove")


def collect_all(
    name: str,
    *,
    root: str,
    cluster: Cluster,
    config: DeployConfig | None,
    with_unfinished: bool,
    report: Callable[[str], None],
) -> None:
    """Remove a vertical model's shards as exfm.deploy.rollout.collect does, then its bundles that nothing names.

    An empty `root`: bundles stay. Otherwise a model that the root's registry has need not be deployed.

    Raises: what exfm.deploy.rollout.collect and collect_bundles raise.
    """
    if not root:
        collect(cluster, name, config=config, with_unfinished=with_unfinished, report=report)
        return
    from exfm.registry.mlflow_registry import Registry  # MLflow takes seconds to import

    registry = Registry.at(root, create=False)
    is_registered = registry.named_bundle_ids(name) is not None  # first: if the registry fails, the shards stay too
    seen = observe(cluster, name)
    if seen.history is not None or seen.shards or not is_registered:
        collect(cluster, name, config=config, with_unfinished=with_unfinished, report=report)
    else:
        report(f"{name}: not deployed in namespace {cluster.namespace}")
    collect_bundles(root, name=name, cluster=cluster, registry=registry, report=report, now_s=time.time())


def _finished(folder: str) -> list[FinishedBundle]:
    manifests = {name: join(folder, name, MANIFEST) for name in list_folders(folder) if _is_bundle_id(name)}
    return [FinishedBundle(name, modified_s(file)) for name, file in manifests.items() if exists(file)]


def _is_bundle_id(name: str) -> bool:
    """Return whether a folder's name is a bundle's id: others under the root are not a run's bundles."""
    return re.fullmatch(r"[0-9a-f]{64}", name) is not None
