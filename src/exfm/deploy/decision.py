"""What to do next: a pure function of what is wanted and what is there.

Nothing is remembered between two decisions, so a deployment that was killed anywhere goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from exfm.deploy.config import DeployConfig
from exfm.deploy.observation import Observation, Servers
from exfm.deploy.release import History, Release, switched


@dataclass(frozen=True)
class ApplyShards:
    """Shards of the wanted version are missing."""

    shards: tuple[int, ...]


@dataclass(frozen=True)
class SwitchRanker:
    """All shards are ready: the ranker's pods may be replaced, one by one, by pods of the wanted version.

    A new ranker is ready only when its shards answered the golden queries with the exported scores, so the old ones
    stay until it does.
    """


@dataclass(frozen=True)
class Collect:
    """Versions that nothing serves or may be rolled back to any more."""

    versions: tuple[int, ...]


@dataclass(frozen=True)
class Wait:
    """Time has to pass."""

    why: str
    num_switched: int = 0
    """Rankers that are of the wanted version by now: they come one by one, and each has its time."""


@dataclass(frozen=True)
class Linger:
    """The wanted version serves; only what was before it has not ended yet."""

    why: str


@dataclass(frozen=True)
class Fail:
    """Waiting cannot solve it."""

    why: str


@dataclass(frozen=True)
class Done:
    """The wanted version serves, and nothing else is left to do."""


Action = ApplyShards | SwitchRanker | Collect | Wait | Linger | Fail | Done


@dataclass(frozen=True)
class SwitchBack:
    """The ranker goes back to what this history names first."""

    history: History


@dataclass(frozen=True)
class RemoveRanker:
    """The ranker goes: nothing shows that it ever served."""


@dataclass(frozen=True)
class KeepRanker:
    """The ranker stays as it is."""


def serves(release: Release, seen: Observation) -> bool:
    """Return whether the ranker was switched to `release` last, and is not on its way out."""
    leaving = seen.ranker is None or seen.ranker.leaving
    return not leaving and seen.history is not None and seen.history.current.release.same_content(release)


def history_after(release: Release, seen: Observation, config: DeployConfig, *, at_s: int) -> History:
    """Return the ranker's history once it is switched to `release`: without a switch that has not ended."""
    current = seen.history.current if seen.history else None
    if seen.history and current and serves(release, seen) and (current.release, current.settings) == (release, config):
        return seen.history
    return switched(seen.served, release, config, at_s=at_s)


def next_action(release: Release, seen: Observation, config: DeployConfig, *, now_s: int) -> Action:
    """Return the next step until only `release` serves; its predecessor's shards stay for `config.hot_s`."""
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
    if unready and not seen.ranker.settled and not lost:  # a ranker that waits, waits for its shards
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
    """Return the versions whose shards may go once `release` (none: nothing) is the one that is wanted.

    In the midst of a switch to it none may: it may fail, and what was hot before is hot again. Shards that no ranker
    was switched to, or that are not all ready, are of a deployment that may be under way: they stay until that must
    have given up, or go `with_unfinished`.
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


def undo(
    release: Release, seen: Observation, config: DeployConfig, *, now_s: int
) -> SwitchBack | RemoveRanker | KeepRanker:
    """Return what becomes of the ranker after `release` failed.

    It goes back from a switch that has not ended, to other settings of `release` as well. Once all servers were of
    `release`, it has served, and a problem after that is not a failed rollout. A first version's ranker is removed only
    if it is new and no server of it is ready.
    """
    if seen.ranker is None or seen.history is None or not serves(release, seen):
        return KeepRanker()
    before, ranker = seen.history.before, seen.ranker
    if before is not None and before.current.release.same_content(release):
        completed = all(servers.completed for servers in [ranker, *seen.shards_of(release.version)])
        return KeepRanker() if completed else SwitchBack(before)
    if before is not None:
        return SwitchBack(before) if seen.switching else KeepRanker()
    young = now_s <= seen.history.current.at_s + config.ready_timeout_s
    return RemoveRanker() if young and not ranker.completed and not ranker.available else KeepRanker()


def leftovers(release: Release, seen: Observation) -> tuple[int, ...]:
    """Return the versions to remove after `release` failed: its own, unless it serves, or is hot and well."""
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
