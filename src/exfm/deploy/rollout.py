"""The loop that carries out decisions: it rolls a release out, or undoes a rollout."""

import time
from collections.abc import Callable

from exfm.deploy.capacity import Room, forecast
from exfm.deploy.cluster import Cluster, find_permitted
from exfm.deploy.config import DeployConfig
from exfm.deploy.decision import (
    ApplyShards,
    Collect,
    Done,
    Fail,
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
    BUDGET_KIND,
    GRACE_PERIOD_S,
    ISVC_KIND,
    VM_LABEL,
    Object,
    headless_name,
    ranker_objects,
    shard_objects,
    with_owner,
)
from exfm.deploy.observation import Observation, observe
from exfm.deploy.release import History, Release
from exfm.errors import CapacityError, ClusterError, DeployError, RolloutError

POLL_S = 1.0
ENDING_TIMEOUT_S = 2.0 * GRACE_PERIOD_S
"""Time for deleted pods to end. A pod that takes longer may be on a lost node."""
UNDO_TIMEOUT_S = 120.0

Report = Callable[[str], None]
"""Takes one line about the progress."""


def roll_out(cluster: Cluster, release: Release, config: DeployConfig, *, report: Report) -> None:
    """Return when `release` serves. After a call was killed, another one goes on where it stopped.

    Raises: before anything is made, ConfigError if rankers could not start with these settings, CapacityError,
    ClusterError, or RolloutError for a version of another bundle; later RolloutError, which says what serves now and
    what could not be removed.
    """
    _make_room(cluster, release, config, report=report)
    try:
        _roll_out(cluster, release, config, report=report)
    except DeployError as error:
        if isinstance(error, ClusterError) and _serves_well(cluster, release):
            report(f"{release.name}: serving, but {error}")
            return
        report(f"{release.name}: {error}; undoing the rollout")  # reported first, because undoing may take minutes
        raise RolloutError(_give_up(cluster, release, config, because=error)) from error


def remove(cluster: Cluster, vm: str, config: DeployConfig, *, report: Report) -> None:
    """Remove a vertical model, and return when nothing of it is left.

    Raises: DeployError if the vertical model is not deployed, or its pods do not end in time.
    """
    seen = observe(cluster, vm)
    if seen.ranker is None and not seen.shards and not seen.pods:
        raise DeployError(f"no vertical model {vm!r} is deployed in namespace {cluster.namespace}; see exfm status")
    # The ranker goes first: its requests under way need the shards.
    if seen.ranker is not None:
        cluster.delete(ISVC_KIND, seen.ranker.name)
    give_up_s = time.monotonic() + config.ready_timeout_s
    reported = ""
    while seen.ranker is not None or seen.shards or seen.pods:
        if seen.ranker is None and not seen.ranker_pods:
            _delete_shards(cluster, seen, tuple(seen.shards))
        if time.monotonic() > give_up_s:
            raise DeployError(
                f"{vm}: {seen.pods} pods are still there after {config.ready_timeout_s} s; see kubectl describe pod"
            )
        reported = _report_once(report, f"{vm}: {seen.pods} pods are ending", reported)
        time.sleep(POLL_S)
        seen = observe(cluster, vm)
    for kind in ("Service", BUDGET_KIND):  # rendered ones have no owner
        for item in cluster.find(kind, labels={VM_LABEL: vm}):
            cluster.delete(kind, item["metadata"]["name"])
    report(f"{vm}: removed")


def collect(cluster: Cluster, vm: str, *, config: DeployConfig | None, with_unfinished: bool, report: Report) -> None:
    """Remove the shards of earlier versions that no longer serve and whose `hot_s` is over.

    `hot_s` is that of `config`, or without one the deployment's own. `with_unfinished` also removes shards of
    deployments that were killed before they switched the ranker; no deployment may be under way.

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
    report(f"{vm}: {_list_of(versions)}" if versions else f"{vm}: nothing to collect")


def _make_room(cluster: Cluster, release: Release, config: DeployConfig, *, report: Report) -> None:
    """Remove collectable shards, and return when the release fits beside the running servers."""
    give_up_s = time.monotonic() + ENDING_TIMEOUT_S
    reported = ""
    while True:
        seen = observe(cluster, release.vm)
        if why := conflict(release, seen):
            raise RolloutError(f"{release.name} is not deployed: {why}")
        gone = collectable(release, seen, config, now_s=int(time.time()))
        if gone:
            reported = _report_once(report, f"{release.vm}: {_list_of(gone)}", reported)
            _delete_shards(cluster, seen, gone)
        try:
            peak = forecast(release, seen, config, _room(cluster))
        except CapacityError:
            ending = gone or any(servers.leaving for servers in seen.all_servers())
            if not ending or time.monotonic() > give_up_s:
                raise
            reported = _report_once(report, f"{release.name}: waiting for deleted servers to end", reported)
            time.sleep(POLL_S)
            continue
        report(f"{release.name}: {peak}")
        return


def _roll_out(cluster: Cluster, release: Release, config: DeployConfig, *, report: Report) -> None:
    give_up_s = time.monotonic() + config.ready_timeout_s
    linger_until_s = 0.0
    reported = ""
    applied = has_switched = False
    most_switched = 0
    while True:
        seen = observe(cluster, release.vm)
        if why := conflict(release, seen):  # another deployment took the version since
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
                reported = _report_once(report, f"{release.name}: all shards ready, switching the ranker", reported)
                _switch(cluster, release, seen, config)
                has_switched = True
            case Collect(versions):
                reported = _report_once(report, f"{release.vm}: {_list_of(versions)}", reported)
                _delete_shards(cluster, seen, versions)
            case Fail(why):
                raise RolloutError(why)
            case Wait(why, num_switched):
                if num_switched > most_switched:
                    most_switched, give_up_s = num_switched, time.monotonic() + config.ready_timeout_s
                if time.monotonic() > give_up_s:
                    raise RolloutError(f"{why} after {config.ready_timeout_s} s")
                reported = _report_once(report, f"{release.name}: {why}", reported)
            case Linger(why):
                linger_until_s = linger_until_s or time.monotonic() + ENDING_TIMEOUT_S
                reported = _report_once(report, f"{release.name}: {why}", reported)
                if time.monotonic() > linger_until_s:
                    report(
                        f"{release.name}: serving; after {ENDING_TIMEOUT_S:.0f} s {why} still; their node may be lost, "
                        "see kubectl get nodes"
                    )
                    return
            case Done():
                report(f"{release.name}: serving")
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
    """Undo the rollout of `release`; return what happened, what serves now, and what is left."""
    try:
        seen, ended = _undo(cluster, release, config)
    except ClusterError as error:
        left = f"undoing the rollout failed, too ({error}); run the same command again"
        return f"{release.name} does not serve as configured: {because}; {left}"
    if serves(release, seen):
        return f"{release.name} does not serve as configured: {because}; its servers stay as they are"
    left = "its servers are removed" if ended else f"its servers have not ended after {UNDO_TIMEOUT_S:.0f} s"
    now = f"; {seen.history.current.release.name} keeps serving" if seen.history else ""
    return f"{release.name} is not serving: {because}; {left}{now}"


def _undo(cluster: Cluster, release: Release, config: DeployConfig) -> tuple[Observation, bool]:
    """Undo a rollout; return what the cluster has then, and whether everything to remove is gone."""
    seen = observe(cluster, release.vm)
    match undo(release, seen, config, now_s=int(time.time())):
        case SwitchBack(history):
            _switch_back(cluster, release, history)
        case RemoveRanker() if seen.ranker is not None:
            cluster.delete(ISVC_KIND, seen.ranker.name)
    give_up_s = time.monotonic() + UNDO_TIMEOUT_S
    while True:
        seen = observe(cluster, release.vm)
        gone = leftovers(release, seen)
        has_rankers = bool(seen.ranker_pods.get(release.version, 0))
        if not has_rankers:  # rankers of this version still need its shards
            _delete_shards(cluster, seen, gone)
        ended = not gone and (not has_rankers or serves(release, seen))
        if ended or time.monotonic() > give_up_s:
            return seen, ended
        time.sleep(POLL_S)


def _switch_back(cluster: Cluster, release: Release, history: History) -> None:
    """Switch the ranker to the version before, with the settings that it had."""
    before = history.current
    if before.release.same_content(release):  # only settings were new, and the shards have them, too
        _apply_shards(cluster, before.release, before.settings)
    _apply_owned(cluster, *ranker_objects(history))


def _apply_shards(cluster: Cluster, release: Release, config: DeployConfig, *, only: tuple[int, ...] = ()) -> None:
    for shard in only or range(release.num_shards):
        _apply_owned(cluster, *shard_objects(release, shard, config))


def _apply_owned(cluster: Cluster, service: Object, *owned: Object) -> None:
    owner = cluster.apply(service)
    for item in owned:
        cluster.apply(with_owner(item, owner))


def _switch(cluster: Cluster, release: Release, seen: Observation, config: DeployConfig) -> None:
    _apply_owned(cluster, *ranker_objects(history_after(release, seen, config, at_s=int(time.time()))))


def _delete_shards(cluster: Cluster, seen: Observation, versions: tuple[int, ...]) -> None:
    for version in versions:
        for servers in seen.shards_of(version):
            cluster.delete(ISVC_KIND, servers.name)
            cluster.delete("Service", headless_name(servers.name))
            cluster.delete(BUDGET_KIND, servers.name)


def _room(cluster: Cluster) -> Room:
    return Room(
        quotas=find_permitted(cluster, "ResourceQuota"),
        runtimes=find_permitted(cluster, "ServingRuntime"),
        nodes=find_permitted(cluster, "Node"),
        pods=find_permitted(cluster, "every Pod"),
    )


def _list_of(versions: tuple[int, ...]) -> str:
    return f"removing the shards of {', '.join(f'v{version}' for version in versions)}"


def _report_once(report: Report, line: str, reported: str) -> str:
    if line != reported:
        report(line)
    return line
