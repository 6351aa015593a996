"""A model's newest logged requests, scored by a candidate beside its champion.

Legend: N candidates of all requests, L rankings (the candidates of one user in one request), T tasks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from exfm.artifact.storage import Ref
from exfm.artifact.stores import entries, join, local_copy
from exfm.errors import DataError, RequestError, StorageError
from exfm.features.table import require_column
from exfm.models.scoring import UnshardedScorer
from exfm.registry.mlflow_registry import Registry
from exfm.registry.replay import TOP, Replay, ReplayConfig, TaskReplay
from exfm.registry.table_scores import table_scores
from exfm.schema import SERVED_ARRIVAL_COLUMN, SERVED_MODEL_COLUMN, SERVED_USER_COLUMN, Schema, time_text

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def replay_version(registry: Registry, name: str, *, candidate: Ref, champion: int, config: ReplayConfig) -> Replay:
    """Return how a registered candidate answers logged requests beside a version of its model.

    Raises: StorageError if the registry does not answer, or a bundle is damaged.
    """
    beside = registry.bundle_of(registry.version(name, champion))
    with registry.fetching(candidate) as own, registry.fetching(beside) as champions:
        return replay(own, champions, config)


def replay(candidate: Path, champion: Path, config: ReplayConfig) -> Replay:
    """Return how a candidate's bundle answers the newest logged requests of its model beside the champion's bundle.

    A log that cannot be read or scored is the replay's `problem`, and no error: a log is outside of what a run needs.

    Raises: BundleError if a bundle is damaged.
    """
    own, champions = UnshardedScorer.load(candidate), UnshardedScorer.load(champion)
    schemas = [scorer.manifest.feature_schema for scorer in (own, champions)]
    name, key = own.manifest.name, schemas[0].impression_key
    try:
        rows = newest_requests(config.log, name, schemas, most=config.max_requests)
        own_NT, champions_NT = _scores(own, rows), _scores(champions, rows)
        if not np.isfinite(champions_NT).all():
            raise DataError(f"a score of the champion, bundle {champions.manifest.bundle_id}, is no number")
    except (StorageError, DataError) as error:
        return Replay(problem=str(error))
    request_N, arrivals_ns = _requests(rows, key), rows[SERVED_ARRIVAL_COLUMN].to_numpy()
    rankings = Rankings.of(request_N, rows[SERVED_USER_COLUMN].to_numpy())
    of_both = [task for task in own.manifest.tasks if task in champions.manifest.tasks]
    first, last = (time_text(int(ns) // 10**9, kind="absolute") for ns in (arrivals_ns.min(), arrivals_ns.max()))
    return Replay(
        num_requests=int(request_N[-1]) + 1,
        num_scores=len(rows),
        first=first,
        last=last,
        tasks=tuple(
            compare(
                task,
                own_NT[:, own.manifest.tasks.index(task)],
                champions_NT[:, champions.manifest.tasks.index(task)],
                rankings,
            )
            for task in of_both
        ),
    )


def _scores(scorer: UnshardedScorer, rows: pa.Table) -> Floats:
    try:
        return table_scores(scorer, rows)
    except (DataError, RequestError) as error:
        raise DataError(
            f"the requests cannot be scored by bundle {scorer.manifest.bundle_id}: {error}; until rankers log what it "
            "needs, set the bounds of `replay` to 1"
        ) from error


def newest_requests(log: str, model: str, schemas: list[Schema], *, most: int) -> pa.Table:
    """Return the rows of the newest requests of a model, `most` of them or fewer, in order of their files.

    Files are as exporters name them, so the last names have the newest requests. A file with other columns than the
    newest one, such as an earlier version of the model logged, ends the search.

    Raises: StorageError if there is no request, or a file cannot be read; DataError if it is not a request log.
    """
    folder, key = join(log, model, "impressions"), schemas[0].impression_key
    names = sorted((item["name"] for item in entries(folder) if item["name"].endswith(".parquet")), reverse=True)
    wanted = list(
        dict.fromkeys(
            [key, SERVED_ARRIVAL_COLUMN, SERVED_USER_COLUMN, *(name for one in schemas for name in one.feature_names())]
        )
    )
    parts: list[pa.Table] = []
    for part in _files(folder, names, wanted, model=model):
        if parts and part.schema != parts[0].schema:
            break
        requests_N = _requests(part, key)
        num_requests = int(requests_N[-1]) + 1 if len(part) else 0
        parts.insert(0, part.filter(pa.array(requests_N >= num_requests - most)))
        most -= num_requests
        if most <= 0:
            break
    rows = pa.concat_tables(parts) if parts else pa.table({})
    if not len(rows):
        raise StorageError(
            f"{folder} has {len(names)} Parquet files and no request of {model}, expected at least one; let its "
            "rankers log requests (`request_log`) and exporters upload them, or leave `replay.log` empty"
        )
    return rows


def _files(folder: str, names: list[str], columns: list[str], *, model: str) -> Iterator[pa.Table]:
    for name in names:
        with local_copy(folder, [name]) as local:
            try:
                with pq.ParquetFile(local / name) as file:
                    rows = file.read(columns=[*columns, SERVED_MODEL_COLUMN])  # without those that are not there
            except (OSError, pa.ArrowException) as error:
                raise StorageError(f"{join(folder, name)}: no Parquet file that can be read: {error}") from error
        try:
            for column in (columns[0], SERVED_MODEL_COLUMN, SERVED_ARRIVAL_COLUMN, SERVED_USER_COLUMN):
                require_column(rows.column_names, column)
        except DataError as error:
            raise DataError(f"{join(folder, name)} is not a request log: {error}") from error
        yield rows.filter(pc.equal(rows[SERVED_MODEL_COLUMN], model)).drop_columns(SERVED_MODEL_COLUMN)


def _requests(rows: pa.Table, key: str) -> Ints:
    """Return the number of each row's request, from 0; a request's rows follow each other."""
    ids = pc.replace_substring_regex(rows[key].cast(pa.string()), pattern=r"-[0-9]+$", replacement="")
    is_first_N = np.ones(len(rows), dtype=np.bool_)
    if len(rows) > 1:
        is_first_N[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    return np.cumsum(is_first_N) - 1


@dataclass(frozen=True)
class Rankings:
    """Which candidates are ranked together."""

    ranking_N: Ints
    """The number of each candidate's ranking, rising from 0."""
    sizes_L: Ints

    @classmethod
    def of(cls, request_N: Ints, user_N: Ints) -> "Rankings":
        """Return the rankings of requests' users, whose rows follow each other."""
        is_first_N = (np.diff(request_N, prepend=-1) != 0) | (np.diff(user_N, prepend=-1) != 0)
        ranking_N = np.cumsum(is_first_N) - 1
        return cls(ranking_N, np.bincount(ranking_N))

    def best(self, scores_N: Floats) -> Ints:
        """Return rows by ranking and falling score; of equal scores the first ones come first, as clients show them."""
        return np.lexsort((-scores_N, self.ranking_N))

    def is_top(self) -> npt.NDArray[np.bool_]:
        """Return which places of sorted rows are among the best of their ranking."""
        place_N = np.arange(len(self.ranking_N)) - (np.cumsum(self.sizes_L) - self.sizes_L)[self.ranking_N]
        return place_N < TOP


def compare(task: str, own_N: Floats, champions_N: Floats, rankings: Rankings) -> TaskReplay:
    """Return how a task's scores differ."""
    not_numbers = float(1 - np.isfinite(own_N).mean())
    if not_numbers:
        return TaskReplay(task=task, not_numbers=not_numbers)
    shifts_N = np.abs(own_N.astype(np.float64) - champions_N)
    own, champions = rankings.best(own_N), rankings.best(champions_N)
    is_top, ranking_N, sizes_L = rankings.is_top(), rankings.ranking_N, rankings.sizes_L
    is_moved_L = np.bincount(ranking_N[is_top], weights=(own != champions)[is_top], minlength=len(sizes_L)) > 0
    is_new = ~np.isin(own[is_top], champions[is_top])
    changes_L = np.bincount(ranking_N[is_top], weights=is_new, minlength=len(sizes_L)) / TOP
    is_long_L = sizes_L > TOP
    return TaskReplay(
        task=task,
        not_numbers=0,
        top_ten_change=float(changes_L[is_long_L].mean()) if is_long_L.any() else None,
        reordered=float(is_moved_L[sizes_L > 1].mean()) if (sizes_L > 1).any() else None,
        mean_shift=float(shifts_N.mean()),
        p99_shift=float(np.quantile(shifts_N, 0.99)),
    )
