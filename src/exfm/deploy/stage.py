"""Operations for people and pipelines: deploy, preview or render a bundle, and roll back."""

import time
from dataclasses import dataclass

from exfm.artifact.bundle import BundleManifest
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.decision import history_after
from exfm.deploy.objects import ISVC_KIND, Object, release_objects, with_owner
from exfm.deploy.observation import Observation, observe
from exfm.deploy.release import Release, choose_version, make_release, switched
from exfm.deploy.render import difference, to_yaml
from exfm.deploy.rollout import Report, roll_out
from exfm.errors import ConfigError, DeployError


@dataclass(frozen=True)
class Deployable:
    """A bundle to be deployed."""

    manifest: BundleManifest
    digest: str
    """SHA-256 of its manifest.json."""
    uri: str
    """URI from which pods read the bundle."""
    version: int = 0
    """0: the version under which the bundle is deployed, or the next free one."""

    def release(self, seen: Observation) -> Release:
        """Return the release of this bundle, given what the cluster has.

        Raises: BundleError if it has no golden query.
        """
        version = self.version or choose_version(self.manifest.bundle_id, seen.releases())
        return make_release(self.manifest, uri=self.uri, digest=self.digest, version=version)


def deploy(cluster: Cluster, bundle: Deployable, config: DeployConfig, *, report: Report) -> Release:
    """Deploy a bundle, and return its release once it serves.

    Raises: BundleError if it has no golden query; ConfigError, CapacityError, ClusterError or RolloutError, as
    `roll_out` does.
    """
    release = bundle.release(observe(cluster, bundle.manifest.name))
    roll_out(cluster, release, config, report=report)
    return release


def preview(cluster: Cluster, bundle: Deployable, config: DeployConfig) -> str:
    """Return what a deployment would change, as a unified diff; one line if nothing.

    Raises: BundleError if the bundle has no golden query; ConfigError as `switched`; ClusterError.
    """
    seen = observe(cluster, bundle.manifest.name)
    release = bundle.release(seen)
    history = history_after(release, seen, config, at_s=int(time.time()))
    changes = difference(cluster, _owned(cluster, release_objects(history)))
    return changes or f"{release.name}: nothing would change"


def render(bundle: Deployable, config: DeployConfig) -> str:
    """Return the objects of a bundle as YAML, for GitOps, without a cluster.

    Raises: ConfigError if the bundle has no version, or as `switched`; BundleError if it has no golden query.
    """
    if not bundle.version:
        raise ConfigError("--render does not read the next free version from a cluster; give --version")
    release = make_release(bundle.manifest, uri=bundle.uri, digest=bundle.digest, version=bundle.version)
    return to_yaml(release_objects(switched(None, release, config, at_s=0)))


def roll_back(cluster: Cluster, vm: str, *, to: int, config: DeployConfig | None, report: Report) -> Release:
    """Serve an earlier version again, and return its release; `to` 0: the version before the current one.

    It gets `config`, or without one the settings that it had.

    Raises: DeployError if there is none; ConfigError, CapacityError, ClusterError or RolloutError, as `roll_out` does.
    """
    history = observe(cluster, vm).history
    if history is None:
        raise DeployError(f"no vertical model {vm!r} serves in namespace {cluster.namespace}; see exfm status")
    switch = history.find(to) if to else history.previous
    if switch is None:
        known = ", ".join(f"v{version}" for version in dict.fromkeys(s.release.version for s in history.switches))
        wanted = f"version {to}" if to else "version before it"
        raise DeployError(f"{vm} has no {wanted} in its history, which has {known}; deploy its bundle instead")
    roll_out(cluster, switch.release, config or switch.settings, report=report)
    return switch.release


def _owned(cluster: Cluster, objects: list[Object]) -> list[Object]:
    """Return the objects; what follows an InferenceService gets it as owner, if it is deployed."""
    owned: list[Object] = []
    owner: Object | None = None
    for item in objects:
        if item["kind"] == ISVC_KIND:
            owner = cluster.get(ISVC_KIND, item["metadata"]["name"])
            owned.append(item)
        else:
            owned.append(item if owner is None else with_owner(item, owner))
    return owned
