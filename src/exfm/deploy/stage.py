"""What people and pipelines ask for: a bundle deployed, a version taken back."""

import time
from dataclasses import dataclass

from exfm.artifact.bundle import BundleManifest
from exfm.deploy.cluster import Cluster
from exfm.deploy.config import DeployConfig
from exfm.deploy.objects import ISVC_KIND, Object, ranker_object, shard_name, shard_objects, with_owner
from exfm.deploy.observation import Observation, observe
from exfm.deploy.release import Release, choose_version, make_release, switched
from exfm.deploy.rollout import Say, roll_out
from exfm.errors import DeployError


@dataclass(frozen=True)
class Deployable:
    """A bundle to be deployed."""

    manifest: BundleManifest
    digest: str
    """SHA-256 of its manifest.json."""
    uri: str
    """Where pods take it from."""
    version: int = 0
    """0: the one that it is deployed as already, or the next free one."""

    def release(self, seen: Observation) -> Release:
        """Return the release that it becomes beside what was seen."""
        version = self.version or choose_version(self.manifest.bundle_id, seen.releases())
        return make_release(self.manifest, uri=self.uri, digest=self.digest, version=version)


def deploy(cluster: Cluster, bundle: Deployable, config: DeployConfig, *, say: Say) -> Release:
    """Return the release of a bundle, which serves then.

    Raises: what `roll_out` raises.
    """
    release = bundle.release(observe(cluster, bundle.manifest.name))
    roll_out(cluster, release, config, say=say)
    return release


def roll_back(cluster: Cluster, vm: str, config: DeployConfig, *, to: int, say: Say) -> Release:
    """Return the release that a vertical model serves again: version `to`, or for 0 the one before the current one.

    Raises: DeployError if there is none; what `roll_out` raises.
    """
    history = observe(cluster, vm).history
    if history is None:
        raise DeployError(f"no vertical model {vm!r} serves in namespace {cluster.namespace}; see exfm status")
    release = history.find(to) if to else history.previous
    if release is None:
        known = ", ".join(f"v{switch.release.version}" for switch in history.switches)
        wanted = f"version {to}" if to else "version before it"
        raise DeployError(f"{vm} remembers no {wanted}; it knows {known}: deploy its bundle instead")
    roll_out(cluster, release, config, say=say)
    return release


def desired_objects(cluster: Cluster, release: Release, config: DeployConfig) -> list[Object]:
    """Return the objects that a deployment of `release` would end with.

    Raises: ClusterError.
    """
    seen = observe(cluster, release.vm)
    objects: list[Object] = []
    for shard in range(release.num_shards):
        service, headless = shard_objects(release, shard, config)
        owner = cluster.get(ISVC_KIND, shard_name(release, shard))
        objects += [service, headless if owner is None else with_owner(headless, owner)]
    history = switched(seen.history, release, at_s=int(time.time()), limit=config.history)
    return [*objects, ranker_object(release, history, config)]
