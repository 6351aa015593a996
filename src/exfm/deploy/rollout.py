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
    KeepRanker,
    Linger,
    RemoveRanker,
    SwitchBack,
    SwitchRanker,
    Wait,
    collectable,
    conflict,
    history_after,
    leftovers,
    next_action,
    serves,
    undo,
)
from exfm.deploy.objects import (
    GRACE_PERIOD_S,
    ISVC_KIND,
    VM_LABEL,
    Object,
    headless_name,
    ranker_object,
    shard_objects,
    with_owner,
)
from exfm.deploy.observation import Observation, observe
from exfm.deploy.release import History, Release
from exfm.errors import CapacityError, ClusterError, DeployError, RolloutError

POLL_S = 1.0
ENDING_TIMEOUT_S = 2.0 * GRACE_PERIOD_S
"""For pods that were told to end. What takes longer is on a node that is lost."""
UNDO_TIMEOUT_S = 120.0

Say = Callable[[str], None]
"""Takes one line for whoever waits."""


def roll_out(cluster: Cluster, release: Release, config: DeployConfig, *, say: Say) -> None:
    """Return when `release` serves; run again after it was killed anywhere, it goes on.

    Raises: ConfigError if rankers could not start with these settings, CapacityError, ClusterError, or RolloutError for
    a version of another bundle, before anything is made; RolloutError after that, with the version before serving and
    nothing of this one left, or with what could not be taken back.
    """
    _make_room(cluster, release, config, say=say)
    try:
        _roll_out(cluster, release, config, say=say)
    except DeployError as error:
        if isinstance(error, ClusterError) and _serves_well(cluster, release):
            say(f"{release.name}: serving, but {error}")
            return
        say(f"{release.name}: {error}; taking it back")  # before what may take minutes
        raise RolloutError(_give_up(cluster, release, config, because=error)) from error


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
    for service in cluster.find("Service", labels={VM_LABEL: vm}):  # those that were rendered have no owner
        cluster.delete("Service", service["metadata"]["name"])
    say(f"{vm}: removed")


def collect(cluster: Cluster, vm: str, *, config: DeployConfig | None, with_unfinished: bool, say: Say) -> None:
    """Remove the shards of versions that serve no more and whose time to stay is over.

    That time is the deployment's own, or that of `config` where there is one. `with_unfinished`, shards that nothing
    was switched to go too: of deployments that were killed, if none is under way.

    Raises: DeployError if the vertical model is not deployed.
    """
    seen = observe(cluster, vm)
    if seen.history is None and not (with_unfinished and seen.shards):
        raise DeployError(f"no vertical model {vm!r} serves in namespace {cluster.namespace}; see exfm status")
    current = seen.history.current if seen.history else None
    versions = collectable(
        current.release if current else None,
        seen,
        config or (current.settings if current else DeployConfig()),
        now_s=int(time.time()),
        with_unfinished=with_unfinished,
    )
    _delete_shards(cluster, seen, versions)
    say(f"{vm}: {_list_of(versions)}" if versions else f"{vm}: nothing to collect")


def _make_room(cluster: Cluster, release: Release, config: DeployConfig, *, say: Say) -> None:
    """Remove what may go, and return once the release fits beside what is there."""
    give_up_s = time.monotonic() + ENDING_TIMEOUT_S
    told = ""
    while True:
        seen = observe(cluster, release.vm)
        if why := conflict(release, seen):
            raise RolloutError(f"{release.name} is not deployed: {why}")
        gone = collectable(release, seen, config, now_s=int(time.time()))
        if gone:
            told = _say_once(say, f"{release.vm}: {_list_of(gone)}", told)
            _delete_shards(cluster, seen, gone)
        try:
            said = forecast(release, seen, config, _room(cluster))
        except CapacityError:
            ending = gone or any(servers.leaving for servers in seen.all_servers())
            if not ending or time.monotonic() > give_up_s:
                raise
            told = _say_once(say, f"{release.name}: what was deleted before is ending", told)
            time.sleep(POLL_S)
            continue
        say(f"{release.name}: {said}")
        return


def _roll_out(cluster: Cluster, release: Release, config: DeployConfig, *, say: Say) -> None:
    give_up_s = time.monotonic() + config.ready_timeout_s
    linger_until_s = 0.0
    told = ""
    applied = has_switched = False
    most_switched = 0
    while True:
        seen = observe(cluster, release.vm)
        if why := conflict(release, seen):  # another one took the version since
            raise RolloutError(why)
        action = next_action(release, seen, config, now_s=int(time.time()))
        if not applied and not isinstance(action, Collect) and not seen.is_leaving(release):
            # Settings may have changed since a version was applied; applying the same again changes nothing.
            _apply_shards(cluster, release, config)
            if serves(release, seen):
                _switch(cluster, release, seen, config)
                has_switched = True
            applied = True
            continue
        match action:
            case ApplyShards(shards):
                _apply_shards(cluster, release, config, only=shards)
            case SwitchRanker():
                if has_switched and seen.history is not None:
                    raise RolloutError(f"another deployment switched to {seen.history.current.release.name} meanwhile")
                told = _say_once(say, f"{release.name}: all shards ready, switching the ranker", told)
                _switch(cluster, release, seen, config)
                has_switched = True
            case Collect(versions):
                told = _say_once(say, f"{release.vm}: {_list_of(versions)}", told)
                _delete_shards(cluster, seen, versions)
            case Fail(why):
                raise RolloutError(why)
            case Wait(why, num_switched):
                if num_switched > most_switched:
                    most_switched, give_up_s = num_switched, time.monotonic() + config.ready_timeout_s
                if time.monotonic() > give_up_s:
                    raise RolloutError(f"{why} after {config.ready_timeout_s} s")
                told = _say_once(say, f"{release.name}: {why}", told)
            case Linger(why):
                linger_until_s = linger_until_s or time.monotonic() + ENDING_TIMEOUT_S
                told = _say_once(say, f"{release.name}: {why}", told)
                if time.monotonic() > linger_until_s:
                    say(f"{release.name}: serving; after {ENDING_TIMEOUT_S:.0f} s {why} still: is their node lost?")
                    return
            case Done():
                say(f"{release.name}: serving")
                return
        time.sleep(POLL_S)


def _serves_well(cluster: Cluster, release: Release) -> bool:
    try:
        seen = observe(cluster, release.vm)
    except ClusterError:
        return False
    servers = [*seen.shards_of(release.version), *([seen.ranker] if seen.ranker else [])]
    return serves(release, seen) and all(one.settled for one in servers)


def _give_up(cluster: Cluster, release: Release, config: DeployConfig, *, because: DeployError) -> str:
    """Undo what was done for `release`; return what happened, what serves now, and what is left."""
    try:
        seen, ended = _undo(cluster, release, config)
    except ClusterError as error:
        left = f"it could not be taken back either ({error}): run the same command again"
        return f"{release.name} is not serving as it is to: {because}; {left}"
    if serves(release, seen):
        return f"{release.name} is not serving as it is to: {because}; its servers stay as they are"
    left = "nothing of it was left behind" if ended else f"servers of it are there still after {UNDO_TIMEOUT_S:.0f} s"
    now = f"; {seen.history.current.release.name} serves on" if seen.history else ""
    return f"{release.name} is not serving: {because}; {left}{now}"


def _undo(cluster: Cluster, release: Release, config: DeployConfig) -> tuple[Observation, bool]:
    """Return what is there after `release` was taken back as far as it goes, and whether nothing more is to go."""
    seen = observe(cluster, release.vm)
    match undo(release, seen, config, now_s=int(time.time())):
        case SwitchBack(history):
            _switch_back(cluster, release, history)
        case RemoveRanker() if seen.ranker is not None:
            cluster.delete(ISVC_KIND, seen.ranker.name)
        case KeepRanker():
            pass
    give_up_s = time.monotonic() + UNDO_TIMEOUT_S
    while True:
        seen = observe(cluster, release.vm)
        gone = leftovers(release, seen)
        asking = bool(seen.ranker_pods.get(release.version, 0))
        if not asking:  # shards stay until no ranker of this version asks them
            _delete_shards(cluster, seen, gone)
        ended = not gone and (not asking or serves(release, seen))
        if ended or time.monotonic() > give_up_s:
            return seen, ended
        time.sleep(POLL_S)


def _switch_back(cluster: Cluster, release: Release, history: History) -> None:
    """Have the ranker serve what it served before, with the settings of then."""
    before = history.current
    if before.release.same_content(release):  # only its settings were new, and its shards have them too
        _apply_shards(cluster, before.release, before.settings)
    cluster.apply(ranker_object(history))


def _apply_shards(cluster: Cluster, release: Release, config: DeployConfig, *, only: tuple[int, ...] = ()) -> None:
    for shard in only or range(release.num_shards):
        service, headless = shard_objects(release, shard, config)
        cluster.apply(with_owner(headless, cluster.apply(service)))


def _switch(cluster: Cluster, release: Release, seen: Observation, config: DeployConfig) -> None:
    cluster.apply(ranker_object(history_after(release, seen, config, at_s=int(time.time()))))


def _delete_shards(cluster: Cluster, seen: Observation, versions: tuple[int, ...]) -> None:
    for version in versions:
        for servers in seen.shards_of(version):
            cluster.delete(ISVC_KIND, servers.name)
            cluster.delete("Service", headless_name(servers.name))


def _room(cluster: Cluster) -> Room:
    return Room(
        quotas=_list_or_none(cluster, "ResourceQuota"),
        runtimes=_list_or_none(cluster, "ServingRuntime"),
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
