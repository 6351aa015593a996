"""The deployed versions, as rows of a table."""

from dataclasses import dataclass

from exfm.deploy.cluster import Cluster
from exfm.deploy.objects import ISVC_KIND, VM_LABEL
from exfm.deploy.observation import Observation, observe


@dataclass(frozen=True)
class Row:
    """A version of a vertical model that has servers or is in the ranker's history."""

    vm: str
    version: int
    state: str
    """serving; degraded: serving, but not all servers are ready; switching; hot: its shards stay for a rollback;
    starting; remembered."""
    rankers: str
    """Ready and wanted rankers; empty: it has none."""
    shards: str
    """Ready and wanted servers of each shard."""
    table_mib: float
    """Size of all tables, in one server of each shard."""
    bundle_id: str
    uri: str
    lineage: dict[str, str]
    problems: tuple[str, ...]


def deployed(cluster: Cluster, *, vm: str = "") -> list[Row]:
    """Return the versions of a vertical model (empty: of all), the serving one first.

    Raises: ClusterError.
    """
    names = (
        {vm}
        if vm
        else {item["metadata"].get("labels", {}).get(VM_LABEL, "") for item in cluster.find(ISVC_KIND)} - {""}
    )
    return [row for name in sorted(names) for row in rows_of(observe(cluster, name))]


def rows_of(seen: Observation) -> list[Row]:
    """Return a vertical model's versions: the serving one, then the others, the newest first."""
    releases = {release.version: release for release in reversed(seen.releases())}
    current = seen.history.current.release.version if seen.history else 0
    order = sorted(releases, key=lambda version: (version != current, -version))
    rows = []
    for version in order:
        release, shards = releases[version], seen.shards_of(version)
        serves = version == current and seen.ranker is not None
        ranker = seen.ranker if serves else None
        if ranker is not None:
            well = ranker.settled and all(servers.settled for servers in shards)
            state = "serving" if well else "degraded" if ranker.completed else "switching"
        else:
            state = ("hot" if seen.history and seen.history.find(version) else "starting") if shards else "remembered"
        rows.append(
            Row(
                vm=seen.vm,
                version=version,
                state=state,
                rankers=f"{ranker.ready}/{ranker.wanted}" if ranker else "",
                shards=" ".join(f"{servers.ready}/{servers.wanted}" for servers in shards),
                table_mib=round(sum(release.shard_bytes) / 2**20, 1),
                bundle_id=release.bundle_id,
                uri=release.uri,
                lineage=release.lineage,
                problems=tuple(
                    problem.text for servers in [*([ranker] if ranker else []), *shards] for problem in servers.problems
                ),
            )
        )
    return rows
