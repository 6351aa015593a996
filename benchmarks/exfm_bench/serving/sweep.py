"""The same requests to tables of more and more rows: whether latency stays flat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from exfm_bench.ratios import Interval
from exfm_bench.serving.blocks import Series, joined
from exfm_bench.serving.config import ServingBenchConfig
from exfm_bench.serving.measuring import Say, best_threads, bytes_of
from exfm_bench.serving.models import of_rows
from exfm_bench.serving.servers import ONE_SHARD, TWO_SHARDS, Bundles
from exfm_bench.serving.starts import NUM_SCORED, Arm, started, take_series

FLAT = 1.05
"""Median latency with the most rows over that with the fewest, at most, to be called flat; chosen here."""


@dataclass(frozen=True)
class Swept:
    """Tables of one size, served unsharded and sharded."""

    rows: int
    table_bytes: int
    unsharded: Series
    sharded: Series


@dataclass(frozen=True)
class SweepFound:
    """All sizes, the smallest first."""

    threads: int
    sizes: Sequence[Swept]
    same: Series
    """Blocks of a second unsharded server with the fewest rows: how far its ratios are from 1 is chance."""

    @classmethod
    def of(cls, taken: Sequence[Series], *, table_bytes: Mapping[int, int], threads: int) -> Self:
        """Return the sweep of these series: of each size unsharded, then sharded; at the end the second unsharded one.

        `table_bytes` is the size of all tables together, by the rows of each.
        """
        *pairs, same = taken
        sizes = [
            Swept(rows, size_bytes, unsharded, sharded)
            for (rows, size_bytes), unsharded, sharded in zip(table_bytes.items(), pairs[::2], pairs[1::2], strict=True)
        ]
        return cls(threads, sizes, same)

    def growth(self, *, sharded: bool) -> Interval:
        """Return the median latency with the most rows over that with the fewest."""
        first, last = ((one.sharded if sharded else one.unsharded) for one in (self.sizes[0], self.sizes[-1]))
        return last.ratio("p50_ms", first)


def is_flat(growth: Interval) -> str:
    """Return whether latency is flat, in words."""
    if growth.high <= FLAT:
        return "flat"
    return "not flat" if growth.low > FLAT else "not resolved"


def measure_sweep(config: ServingBenchConfig, bundles: Bundles, *, say: Say) -> SweepFound:
    """Return what was measured of all sizes, whose servers all run at the same time.

    Raises: ServingError if servers do not start or answer.
    """
    sweep = config.sweep
    models = {rows: of_rows(rows, num_tables=sweep.num_tables, dim=sweep.dim) for rows in sweep.rows}
    messages = models[sweep.rows[0]].messages(config.distinct_requests, candidates=sweep.candidates, seed=config.seed)
    arms = [
        Arm(
            f"{rows} rows, {variant or 'unsharded'}",
            variant,
            bundles.of(f"rows-{rows}", model, variant or ONE_SHARD, candidates=sweep.candidates),
        )
        for rows, model in models.items()
        for variant in (None, TWO_SHARDS)
    ]
    arms.append(arms[0])
    threads = config.threads or best_threads(arms[0].bundle, messages, config)
    say(f"  {', '.join(f'{rows:,}' for rows in sweep.rows)} rows a table: a closed loop")
    taken: list[Series] = []
    starts = config.blocks_of_starts()
    for start, numbers in enumerate(starts, start=1):
        say(f"  start {start} of {len(starts)}")
        with started(
            arms, messages, scored=messages[:NUM_SCORED], start=start, threads=threads, config=config
        ) as running:
            series = take_series(running.client, running.servers, config, numbers=numbers, num_requests=sweep.requests)
            taken = joined(taken, series)
    table_bytes = {rows: bytes_of(model) for rows, model in models.items()}
    return SweepFound.of(taken, table_bytes=table_bytes, threads=threads)
