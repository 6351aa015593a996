"""What to do next: a pure function of what is wanted and what is there.

Nothing is remembered between two decisions, so a deployment that was killed anywhere goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from exfm.deploy.observation import Observation, Servers
from exfm.deploy.release import History, Release


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


@dataclass(frozen=True)
class Fail:
    """No waiting mends it."""

    why: str


@dataclass(frozen=True)
class Done:
    """The wanted version serves, and nothing else is left to do."""


Action = ApplyShards | SwitchRanker | Collect | Wait | Fail | Done


def next_action(release: Release, seen: Observation, *, hot_s: int, now_s: int) -> Action:
    """Return the next step towards `release` serving alone, its predecessor's shards kept for `hot_s`."""
    serves = seen.history is not None and seen.history.current.release.same_content(release)
    switching = serves and seen.ranker is not None and not seen.ranker.settled
    # In the midst of a switch nothing goes: it may fail, and what was hot before is hot again.
    gone = () if switching else collectable(release, seen, hot_s=hot_s, now_s=now_s)
    if gone:
        return Collect(gone)
    if seen.is_leaving(release):
        return Wait("what was deleted before is ending")
    shards = seen.shards_of(release.version)
    foreign = [servers for servers in shards if not servers.release.same_content(release)]
    if foreign:
        return Fail(
            f"version {release.version} is deployed from bundle {foreign[0].release.bundle_id[:12]} already, not from "
            f"{release.bundle_id[:12]}; deploy under another version, or collect that one first"
        )
    present = {servers.shard for servers in shards}
    missing = tuple(shard for shard in range(release.num_shards) if shard not in present)
    if missing:
        return ApplyShards(missing)
    unready = [servers for servers in shards if not servers.settled]
    if unready and (switching or not serves):
        return _wait_or_fail(unready, doing=f"{len(shards) - len(unready)} of {len(shards)} shards ready")
    if not serves:
        return SwitchRanker()
    assert seen.ranker is not None  # it has the history
    if not seen.ranker.settled:
        return _wait_or_fail([seen.ranker], doing=f"{seen.ranker.ready} of {seen.ranker.wanted} rankers switched")
    if unready:
        return _wait_or_fail(unready, doing=f"{len(shards) - len(unready)} of {len(shards)} shards ready")
    leaving = sum(count for version, count in seen.ranker_pods.items() if version != release.version)
    if leaving:
        return Wait(f"{leaving} rankers of the version before are ending")
    return Done()


def collectable(release: Release, seen: Observation, *, hot_s: int, now_s: int) -> tuple[int, ...]:
    """Return the versions whose shards may go once `release` is the one that is wanted."""
    history = seen.history
    kept = {release.version}
    if history is not None:
        kept.add(history.current.release.version)
        if now_s < history.current.at_s + hot_s and history.previous is not None:
            kept.add(history.previous.version)
    in_use = {version for version, count in seen.ranker_pods.items() if count}
    return tuple(sorted(set(seen.shards) - kept - in_use))


def undo(release: Release, seen: Observation) -> tuple[Release | None, History | None, bool]:
    """Return what the ranker is to go back to after `release` failed, its history then, and whether it goes at all.

    A ranker goes back only from a switch that has not ended: once no pod of the version before is left, `release` had
    been serving, and what ails it now is no failed rollout.
    """
    if seen.history is None or not seen.history.current.release.same_content(release):
        return None, None, False
    previous = seen.history.previous
    if previous is None:
        return None, None, seen.ranker is not None and seen.ranker.ready == 0
    if not seen.ranker_pods.get(previous.version, 0):
        return None, None, False
    return previous, History(switches=seen.history.switches[1:]), True


def leftovers(release: Release, seen: Observation) -> tuple[int, ...]:
    """Return the versions to remove after `release` failed: its own, unless it serves, or is hot and well."""
    shards = seen.shards_of(release.version)
    if not shards or not all(servers.release.same_content(release) for servers in shards):
        return ()
    if seen.history is not None:
        serves = release.version == seen.history.current.release.version
        hot = seen.history.previous is not None and release.version == seen.history.previous.version
        if serves or (hot and all(servers.settled for servers in shards)):
            return ()
    return (release.version,)


def _wait_or_fail(servers: Sequence[Servers], *, doing: str) -> Wait | Fail:
    problems = [problem for one in servers for problem in one.problems]
    fatal = [problem.text for problem in problems if problem.fatal]
    if fatal:
        return Fail("; ".join(dict.fromkeys(fatal[:3])))
    first = f" ({problems[0].text})" if problems else ""
    return Wait(f"{doing}{first}")
