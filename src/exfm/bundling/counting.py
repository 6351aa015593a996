"""Table statistics, counted on the requests of a log, or on examples as requests.

Legend: R requests.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import polars as pl

from exfm.artifact.manifest import Window
from exfm.artifact.rows import Rows, rows_of_keys
from exfm.bundling.request_keys import RequestKeys
from exfm.bundling.request_log import LoggedRequests
from exfm.errors import DataError
from exfm.events.examples import ExampleTable
from exfm.features.batch import encode_examples
from exfm.features.table import raw_columns
from exfm.planning.counted import Counted
from exfm.planning.row_counts import RowCounts, Weights, ranked, skew_of, sum_by_row
from exfm.planning.statistics import Statistics, TableStatistics, features_by_table, net_of
from exfm.schema import NETS, Net, Schema, SparseFeature, Table

MAX_EXAMPLES = 1_000_000
"""Maximum number of examples that are counted, the newest: recent accesses matter, and this many take a few seconds."""

EXAMPLES_AT_ONCE = 65_536
"""Examples that are encoded at a time."""

Late = npt.NDArray[np.bool_]


@dataclass
class _NetCount:
    """The use of a table by one net's features."""

    num_bags: int = 0
    num_by_length: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    num_using: int = 0
    """Requests with a key of the table."""
    rows: dict[bool, RowCounts] = field(default_factory=lambda: {False: RowCounts(), True: RowCounts()})
    """Row counts of the first half of the requests (False), and of the second half (True)."""

    def add(
        self, requests: RequestKeys, features: Sequence[SparseFeature], net: Net, late_R: Late, num_rows: int
    ) -> Late:
        """Count one net's features of a table; return which requests have a key of them."""
        uses_R = np.zeros(len(requests), dtype=np.bool_)
        for feature in features:
            lengths = requests.lengths[feature.name]
            self.num_bags += len(lengths)
            by_length = np.bincount(lengths, minlength=len(self.num_by_length))
            by_length[: len(self.num_by_length)] += self.num_by_length
            self.num_by_length = by_length
            before = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
            ends_R = np.cumsum(requests.num_rows[net])
            keys_R = before[ends_R] - before[ends_R - requests.num_rows[net]]
            uses_R |= keys_R > 0
            rows, is_late = rows_of_keys(requests.keys[feature.name], num_rows), np.repeat(late_R, keys_R)
            self.rows[False].add(rows[~is_late])
            self.rows[True].add(rows[is_late])
        self.num_using += int(uses_R.sum())
        return uses_R


class _TableCount:
    """The use of one table by requests."""

    def __init__(self, table: Table, features: Sequence[SparseFeature]) -> None:
        self._table = table
        self._features = features
        self._nets: dict[Net, _NetCount] = {net: _NetCount() for net in NETS}
        self._num_using = 0

    def add(self, requests: RequestKeys, late_R: Late) -> None:
        """Count some requests; `late_R` says which are in the second half of all requests."""
        uses_R = np.zeros(len(requests), dtype=np.bool_)
        for net, count in self._nets.items():
            of_net = [feature for feature in self._features if feature.net == net]
            uses_R |= count.add(requests, of_net, net, late_R, self._table.rows)
        self._num_using += int(uses_R.sum())

    def statistics(self, num_requests: int, *, items: float) -> tuple[TableStatistics, Rows]:
        """Return the table's statistics and its hottest rows; counts of the item net are multiplied by `items`."""
        weight_of: dict[Net, float] = {"user": 1.0, "item": items}
        early, late = (
            sum_by_row([_weighted(self._nets[net].rows[half].merged(), weight_of[net]) for net in NETS])
            for half in (False, True)
        )
        by_length = np.zeros(max(len(count.num_by_length) for count in self._nets.values()))
        for net, count in self._nets.items():
            by_length[: len(count.num_by_length)] += count.num_by_length * weight_of[net]
        num_bags = by_length.sum()
        share_of = {net: count.num_using / num_requests for net, count in self._nets.items()}
        share = self._num_using / num_requests
        if items > 1:  # each of a request's items uses the table with the probability of the one that was counted
            share = 1 - (1 - share_of["user"]) * (1 - share_of["item"]) ** items
        statistics = TableStatistics(
            name=self._table.name,
            net=net_of(self._features),
            rows=self._table.rows,
            dim=self._table.dim,
            num_features=len(self._features),
            request_share=share,
            bags_per_request=num_bags / num_requests,
            pooling_mean=float(by_length @ np.arange(len(by_length)) / max(num_bags, 1)),
            pooling_p99=float(np.searchsorted(np.cumsum(by_length), 0.99 * num_bags)),
            skew=skew_of(ranked(*early), *late),
        )
        return statistics, ranked(*sum_by_row([early, late]))


def statistics_of_log(log: LoggedRequests) -> Counted:
    """Return the statistics of a log's requests; a user's bags count once per request.

    Raises: StorageError if the log cannot be read; DataError if it has another schema.
    """
    middle_ns = np.median(log.arrivals_ns)
    num_requests = num_candidates = 0
    counts = _counts(log.schema)
    for requests in log.blocks():
        num_requests += len(requests)
        num_candidates += int(requests.num_rows["item"].sum())
        for count in counts:
            count.add(requests, requests.arrival_ns >= middle_ns)
    return _counted(counts, num_requests, items=1.0, candidates_mean=num_candidates / num_requests)


def statistics_of_examples(
    examples: ExampleTable, windows: Sequence[Window], schema: Schema, *, domains: Sequence[str], candidates_mean: float
) -> Counted:
    """Return an estimate of the statistics: of requests with the users and items of examples.

    An example has one user and one item; a request has `candidates_mean` items. The count covers the newest examples of
    the domains, in whole windows, until there are MAX_EXAMPLES.

    Raises: StorageError if a window cannot be read; DataError if no example has one of the domains, or a column is
    missing.
    """
    sparse = schema.select(features=[feature.name for feature in schema.sparse])
    num_of: dict[Window, int] = {}
    for window in reversed(windows):
        if sum(num_of.values()) >= MAX_EXAMPLES:
            break
        num_of[window] = examples.num_of(window, domains=domains)
    num_examples = sum(num_of.values())
    if not num_examples:
        raise DataError(
            f"0 examples of domain {', '.join(domains) or '(any)'}, so table statistics cannot be counted; "
            "name other domains, or examples that have these"
        )
    counts = _counts(sparse)
    num_before = 0
    columns = [sparse.impression_key, *sparse.feature_names()]  # no column named would be all
    for window in reversed(num_of):
        frame = examples.read(window, domains=domains, columns=columns)
        for requests in _requests_of(frame, sparse):
            late_R = num_before + np.arange(len(requests)) >= num_examples / 2
            for count in counts:
                count.add(requests, late_R)
            num_before += len(requests)
    return _counted(counts, num_examples, items=candidates_mean, candidates_mean=candidates_mean)


def _counts(schema: Schema) -> list[_TableCount]:
    features = features_by_table(schema)
    return [_TableCount(table, features[table.name]) for table in schema.tables]


def _counted(counts: Iterable[_TableCount], num_requests: int, *, items: float, candidates_mean: float) -> Counted:
    pairs = [count.statistics(num_requests, items=items) for count in counts]
    return Counted(
        statistics=Statistics(
            tables=tuple(statistics for statistics, _ in pairs),
            num_requests=num_requests,
            candidates_mean=candidates_mean,
        ),
        hottest={statistics.name: hottest for statistics, hottest in pairs},
    )


def _weighted(counts: tuple[Rows, Weights], weight: float) -> tuple[Rows, Weights]:
    return counts[0], counts[1] * weight


def _requests_of(frame: pl.DataFrame, schema: Schema) -> Iterator[RequestKeys]:
    for part in frame.iter_slices(EXAMPLES_AT_ONCE):
        batches = encode_examples(raw_columns(part.to_arrow(), schema), schema)
        yield RequestKeys.of(
            batches,
            schema,
            arrival_ns=np.zeros(len(part), dtype=np.int64),  # examples have no arrival time
            num_rows=dict.fromkeys(NETS, batches.num_candidates),  # one each
        )
