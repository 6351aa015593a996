"""Bringing a cluster to a release, or back: the loop around the decisions."""

import time
from collections.abc import Callable

from exfm.deploy.capacity import Room, forecast
from exfm.deploy.cluster import Cluster, ForbiddenError
from exfm.deploy.config import DeployConfig
from exfm.deploy.decision import (
    ApplyShards,
    Collect,
    Done,
    Fail,
    SwitchRanker,
    Wait,
    collectable,
    leftovers,
    next_action,
    undo,
)
from exfm.deploy.objects import ISVC_KIND, Object, ranker_object, shard_objects, with_owner
from exfm.deploy.observation import Observation, observe
from exfm.deploy.release import Release, switched
from exfm.errors import DeployError, RolloutError

POLL_S = 1.0
UNDO_TIMEOUT_S = 120.0

Say = Callable[[str], None]
"""Takes one line for whoever waits."""


def roll_out(cluster: Cluster, release: Release, config: DeployConfig, *, say: Say) -> None:
    """Return when `release` serves; run again after it was killed anywhere, it goes on.

    Raises: CapacityError before anything is made; RolloutError, with the version before serving and nothing of this
    one left; ClusterError.
    """
    seen = observe(cluster, release.vm)
    say(f"{release.name}: {forecast(release, seen, config, _room(cluster))}")
    try:
        _roll_out(cluster, release, config, say=say)
    except RolloutError as error:
        raise RolloutError(f"{release.name} is not serving: {error}; {_give_up(cluster, release, config)}") from error


def remove(cluster: Cluster, vm: str, config: DeployConfig, *, say: Say) -> None:
    """Return when nothing of a vertical model is left.

    Raises: DeployError if nothing was there, or something does not go.
    """
    seen = observe(cluster, vm)
    if seen.ranker is None and not seen.shards and not seen.pods:
        raise DeployError(f"no vertical model {vm!r} is deployed in namespace {cluster.namespace}; see exfm status")
    # The ranker first: its requests under way need the shards.
    if seen.ranker is not None:
        cluster.delete(ISVC_KIND, seen.ranker.name)
    give_up_s = time.monotonic() + config.ready_timeout_s
    told = ""
    while seen.ranker is not None or seen.shards or seen.pods:
        if seen.ranker is None and not seen.ranker_pods:
            _delete_shards(cluster, seen, tuple(seen.shards))
        if time.monotonic() > give_up_s:
            raise DeployError(
                f"{vm}: {seen.pods} pods are still there after {config.ready_timeout_s} s; see kubectl describe pod"
            )
        told = _say_once(say, f"{vm}: {seen.pods} pods are ending", told)
        time.sleep(POLL_S)
        seen = observe(cluster, vm)
    say(f"{vm}: removed")


def collect(cluster: Cluster, vm: str, config: DeployConfig, *, say: Say) -> None:
    """Remove the shards of versions that serve no more and whose time to stay is over.

    Raises: DeployError if the vertical model is not deployed.
    """
    seen = observe(cluster, vm)
    if seen.history is None:
        raise DeployError(f"no vertical model {vm!r} serves in namespace {cluster.namespace}; see exfm status")
    versions = collectable(seen.history.current.release, seen, hot_s=config.hot_s, now_s=int(time.time()))
    _delete_shards(cluster, seen, versions)
    say(f"{vm}: {_list_of(versions)}" if versions else f"{vm}: nothing to collect")


def _roll_out(cluster: Cluster, release: Release, config: DeployConfig, *, say: Say) -> None:
    give_up_s = time.monotonic() + config.ready_timeout_s
    told = ""
    applied = False
    while True:
        seen = observe(cluster, release.vm)
        action = next_action(release, seen, hot_s=config.hot_s, now_s=int(time.time()))
        if not applied and not isinstance(action, Collect | Fail) and not seen.is_leaving(release):
            # Settings may have changed since a version was applied; applying the same again changes nothing.
            for shard in range(release.num_shards):
                _apply_shard(cluster, release, shard, config)
            if seen.history is not None and seen.history.current.release.same_content(release):
                _switch(cluster, release, seen, config)
            applied = True
            continue
        match action:
            case ApplyShards(shards):
                for shard in shards:
                    _apply_shard(cluster, release, shard, config)
            case SwitchRanker():
                told = _say_once(say, f"{release.name}: all shards ready, switching the ranker", told)
                _switch(cluster, release, seen, config)
            case Collect(versions):
                told = _say_once(say, f"{release.vm}: {_list_of(versions)}", told)
                _delete_shards(cluster, seen, versions)
            case Fail(why):
                raise RolloutError(why)
            case Wait(why):
                if time.monotonic() > give_up_s:
                    raise RolloutError(f"{why} after {config.ready_timeout_s} s")
                told = _say_once(say, f"{release.name}: {why}", told)
            case Done():
                say(f"{release.name}: serving")
                return
        time.sleep(POLL_S)


def _give_up(cluster: Cluster, release: Release, config: DeployConfig) -> str:
    """Undo what was done for `release`, and return what serves now."""
    seen = observe(cluster, release.vm)
    previous, history, goes = undo(release, seen)
    if previous is not None and history is not None:
        cluster.apply(ranker_object(previous, history, config))
    elif goes and seen.ranker is not None:
        cluster.delete(ISVC_KIND, seen.ranker.name)
    give_up_s = time.monotonic() + UNDO_TIMEOUT_S
    while time.monotonic() < give_up_s:
        seen = observe(cluster, release.vm)
        gone = leftovers(release, seen)
        if not seen.ranker_pods.get(release.version, 0):  # shards stay until no ranker of this version asks them
            _delete_shards(cluster, seen, gone)
        if not gone and not (goes and seen.ranker_pods.get(release.version, 0)):
            break
        time.sleep(POLL_S)
    if seen.history is None:
        return "nothing of it was left behind"
    return f"{seen.history.current.release.name} serves on"


def _apply_shard(cluster: Cluster, release: Release, shard: int, config: DeployConfig) -> None:
    service, headless = shard_objects(release, shard, config)
    cluster.apply(with_owner(headless, cluster.apply(service)))


def _switch(cluster: Cluster, release: Release, seen: Observation, config: DeployConfig) -> None:
    history = switched(seen.history, release, at_s=int(time.time()), limit=config.history)
    cluster.apply(ranker_object(release, history, config))


def _delete_shards(cluster: Cluster, seen: Observation, versions: tuple[int, ...]) -> None:
    for version in versions:
        for servers in seen.shards_of(version):
            cluster.delete(ISVC_KIND, servers.name)


def _room(cluster: Cluster) -> Room:
    return Room(
        quotas=_list_or_none(cluster, "ResourceQuota"),
        nodes=_list_or_none(cluster, "Node"),
        pods=_list_or_none(cluster, "every Pod"),
    )


def _list_or_none(cluster: Cluster, kind: str) -> list[Object] | None:
    try:
        return cluster.find(kind)
    except ForbiddenError:
        return None


def _list_of(versions: tuple[int, ...]) -> str:
    return f"removing the shards of {', '.join(f'v{version}' for version in versions)}"


def _say_once(say: Say, line: str, told: str) -> str:
    if line != told:
        say(line)
    return line
