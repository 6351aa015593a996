"""The next step of a rollout, by pure functions of the release and the observed cluster.

They keep no state, so a deployment that was killed at any point goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from exfm.deploy.config import DeployConfig
from exfm.deploy.observation import Observation, Servers
from exfm.deploy.release import History, Release, switched


@dataclass(frozen=True)
class ApplyShards:
    """Apply these missing shards of the release."""

    shards: tuple[int, ...]


@dataclass(frozen=True)
class SwitchRanker:
    """All shards are ready: replace the ranker's pods one by one.

    An old pod stays until a new one is ready, that is until its shards gave the golden scores.
    """


@dataclass(frozen=True)
class Collect:
    """Remove the shards of these versions, which no ranker and no quick rollback needs."""

    versions: tuple[int, ...]


@dataclass(frozen=True)
class Wait:
    """Wait for the cluster."""

    why: str
    num_switched: int = 0
    """Rankers of the release so far; the timeout starts again with each."""


@dataclass(frozen=True)
class Linger:
    """The release serves; pods of the version before it have not ended yet."""

    why: str


@dataclass(frozen=True)
class Fail:
    """Give up: waiting cannot help."""

    why: str


@dataclass(frozen=True)
class Done:
    """The release serves, and nothing is left to do."""


Action = ApplyShards | SwitchRanker | Collect | Wait | Linger | Fail | Done


@dataclass(frozen=True)
class SwitchBack:
    """Switch the ranker to the first entry of this history."""

    history: History


@dataclass(frozen=True)
class RemoveRanker:
    """Remove the ranker: nothing shows that it ever served."""


def serves(release: Release, seen: Observation) -> bool:
    """Return whether the ranker's last switch was to `release`, and the ranker is not being deleted."""
    leaving = seen.ranker is None or seen.ranker.leaving
    return not leaving and seen.history is not None and seen.history.current.release.same_content(release)


def history_after(release: Release, seen: Observation, config: DeployConfig, *, at_s: int) -> History:
    """Return the ranker's history after a switch to `release`, without an earlier switch that has not ended."""
    current = seen.history.current if seen.history else None
    if seen.history and current and serves(release, seen) and (current.release, current.settings) == (release, config):
        return seen.history
    return switched(seen.served, release, config, at_s=at_s)


def next_action(release: Release, seen: Observation, config: DeployConfig, *, now_s: int) -> Action:
    """Return the next step until only `release` serves; the previous version's shards stay for `config.hot_s`."""
    gone = collectable(release, seen, config, now_s=now_s)
    if gone:
        return Collect(gone)
    if seen.is_leaving(release):
        return Wait("waiting for deleted servers to end")
    shards = seen.shards_of(release.version)
    present = {servers.shard for servers in shards}
    missing = tuple(shard for shard in range(release.num_shards) if shard not in present)
    if missing:
        return ApplyShards(missing)
    unready = [servers for servers in shards if not servers.settled]
    if seen.ranker is None or not serves(release, seen):
        return _wait_or_fail(unready, doing=_counted(shards, unready)) if unready else SwitchRanker()
    lost = any(problem.fatal for problem in seen.ranker.problems)
    if unready and not seen.ranker.settled and not lost:  # the ranker waits for these shards
        return _wait_or_fail(unready, doing=_counted(shards, unready))
    if not seen.ranker.settled:
        doing = f"{seen.ranker.ready} of {seen.ranker.wanted} rankers switched"
        return _wait_or_fail([seen.ranker], doing=doing, num_switched=seen.ranker.ready)
    if unready:
        return _wait_or_fail(unready, doing=_counted(shards, unready))
    if seen.old_ranker_pods:
        return Linger(f"{seen.old_ranker_pods} rankers of the version before are ending")
    return Done()


def conflict(release: Release, seen: Observation) -> str:
    """Return why `release` cannot be deployed: its version belongs to another bundle; empty if it can."""
    found = [servers.release for servers in seen.shards_of(release.version)]
    foreign = [other for other in found if not other.same_content(release)]
    if not foreign:
        return ""
    return (
        f"version {release.version} is deployed already, from bundle {foreign[0].bundle_id[:12]} and not from "
        f"{release.bundle_id[:12]}; deploy under another version, or collect this one first"
    )


def collectable(
    release: Release | None,
    seen: Observation,
    config: DeployConfig,
    *,
    now_s: int,
    with_unfinished: bool = False,
) -> tuple[int, ...]:
    """Return the versions whose shards can be removed if `release` (None: no release) is to serve.

    During a switch to `release` there are none, because the switch may fail. Shards that no ranker was switched to, or
    that are not all ready, may belong to another deployment. They stay until its timeout, unless `with_unfinished`.
    """
    if release is not None and serves(release, seen) and not (seen.ranker and seen.ranker.settled):
        return ()
    kept = {version for version, count in seen.ranker_pods.items() if count}
    kept |= {release.version} if release else set()
    for history in (seen.history, seen.served):
        if history is not None:
            kept.add(history.current.release.version)
            if now_s < history.current.at_s + config.hot_s and history.previous is not None:
                kept.add(history.previous.release.version)
    for version in seen.shards.keys() - kept:
        shards = seen.shards_of(version)
        remembered = seen.history is not None and seen.history.find(version) is not None
        finished = remembered and all(servers.settled for servers in shards)
        young = now_s < max(servers.created_s for servers in shards) + config.ready_timeout_s
        if young and not finished and not with_unfinished:
            kept.add(version)
    leaving = {version for version in seen.shards if all(servers.leaving for servers in seen.shards_of(version))}
    return tuple(sorted(seen.shards.keys() - kept - leaving))


def undo(release: Release, seen: Observation, config: DeployConfig, *, now_s: int) -> SwitchBack | RemoveRanker | None:
    """Return what to do with the ranker after `release` failed; None: nothing.

    A switch that has not ended is taken back, also one to other settings of `release`. Once all servers were of
    `release`, it has served, and a later problem is not a failed rollout. The ranker of a first version is removed only
    if it is new and none of its servers is ready.
    """
    if seen.ranker is None or seen.history is None or not serves(release, seen):
        return None
    before, ranker = seen.history.before, seen.ranker
    if before is not None and before.current.release.same_content(release):
        completed = all(servers.completed for servers in [ranker, *seen.shards_of(release.version)])
        return None if completed else SwitchBack(before)
    if before is not None:
        return SwitchBack(before) if seen.switching else None
    young = now_s <= seen.history.current.at_s + config.ready_timeout_s
    return RemoveRanker() if young and not ranker.completed and not ranker.available else None


def leftovers(release: Release, seen: Observation) -> tuple[int, ...]:
    """Return the versions to remove after `release` failed: its own, unless it serves, or is hot and ready."""
    shards = seen.shards_of(release.version)
    if not shards or not all(servers.release.same_content(release) for servers in shards):
        return ()
    if seen.history is not None:
        previous = seen.history.previous
        hot = previous is not None and release.version == previous.release.version
        if serves(release, seen) or (hot and all(servers.settled for servers in shards)):
            return ()
    return (release.version,)


def _counted(shards: Sequence[Servers], unready: Sequence[Servers]) -> str:
    return f"{len(shards) - len(unready)} of {len(shards)} shards ready"


def _wait_or_fail(servers: Sequence[Servers], *, doing: str, num_switched: int = 0) -> Wait | Fail:
    problems = [problem for one in servers for problem in one.problems]
    fatal = [problem.text for problem in problems if problem.fatal]
    if fatal:
        return Fail("; ".join(dict.fromkeys(fatal[:3])))
    first = f" ({problems[0].text})" if problems else ""
    return Wait(f"{doing}{first}", num_switched)
