"""Blocks of requests: every server's in turn, in an order of its own each time, and what comes of a block."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exfm_bench.ratios import Interval, median_of, ratio_of

Floats = npt.NDArray[np.float64]

Statistic = Literal["p50_ms", "p99_ms", "cpu_ms"]

STATISTICS: tuple[Statistic, ...] = ("p50_ms", "p99_ms", "cpu_ms")
"""Figures by which servers are compared."""

Figure = Literal["p50_ms", "p99_ms", "cpu_ms", "shards_cpu_ms", "client_cpu_ms"]

FIGURES: tuple[Figure, ...] = (*STATISTICS, "shards_cpu_ms", "client_cpu_ms")
"""Figures that are shown of each server."""


@dataclass(frozen=True)
class Turn:
    """Some requests that one server answered, one after another or as they came."""

    latency_ms: Floats
    front_cpu_s: float
    """CPU time of the process that receives requests."""
    shards_cpu_s: float
    """CPU time of all other processes together."""
    client_cpu_s: float
    num_failed: int

    def __add__(self, other: "Turn") -> "Turn":
        """Return both turns as one."""
        return Turn(
            np.concatenate([self.latency_ms, other.latency_ms]),
            self.front_cpu_s + other.front_cpu_s,
            self.shards_cpu_s + other.shards_cpu_s,
            self.client_cpu_s + other.client_cpu_s,
            self.num_failed + other.num_failed,
        )


@dataclass(frozen=True)
class Block:
    """What one server did in one block; CPU time is that of a mean request."""

    p50_ms: float
    p99_ms: float
    cpu_ms: float
    """CPU time of all processes of the server, without the client's."""
    shards_cpu_ms: float
    """CPU time of the shards among these processes."""
    client_cpu_ms: float
    num_requests: int
    num_failed: int

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> "Block":
        """Return the block that these turns are."""
        whole = reduce(Turn.__add__, turns)
        num_requests = len(whole.latency_ms)
        p50_ms, p99_ms = np.quantile(whole.latency_ms, [0.5, 0.99])
        return cls(
            p50_ms=float(p50_ms),
            p99_ms=float(p99_ms),
            cpu_ms=1e3 * (whole.front_cpu_s + whole.shards_cpu_s) / num_requests,
            shards_cpu_ms=1e3 * whole.shards_cpu_s / num_requests,
            client_cpu_ms=1e3 * whole.client_cpu_s / num_requests,
            num_requests=num_requests,
            num_failed=whole.num_failed,
        )


@dataclass(frozen=True)
class Series:
    """All blocks of one server."""

    name: str
    starts: tuple[tuple[Block, ...], ...]
    """Blocks by start of the server."""

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Return those of all starts, one after another."""
        return tuple(chain.from_iterable(self.starts))

    def median(self, figure: Figure) -> Interval:
        """Return a figure's median over blocks, as `median_of`."""
        return median_of(self._figures(figure))

    def ratio(self, statistic: Statistic, to: "Series") -> Interval:
        """Return how a figure compares with another server's, by blocks."""
        return ratio_of(self._figures(statistic), to._figures(statistic))

    def _figures(self, figure: Figure) -> list[list[float]]:
        return [[getattr(block, figure) for block in start] for start in self.starts]

    @property
    def num_failed(self) -> int:
        """Return the requests without an answer."""
        return sum(block.num_failed for block in self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return the raw numbers, as JSON can hold them."""
        return {"name": self.name, "starts": [[asdict(block) for block in start] for start in self.starts]}


def joined(before: Sequence[Series], later: Sequence[Series]) -> list[Series]:
    """Return each server's series of the starts of both; before the first there are none."""
    if not before:
        return list(later)
    return [Series(one.name, one.starts + other.starts) for one, other in zip(before, later, strict=True)]


def take_blocks(
    names: Sequence[str], take: Callable[[int, int], Turn], *, numbers: range, num_turns: int, seed: int
) -> list[Series]:
    """Return the series of servers of these names, of one start.

    `take(server, turn)` has one server answer a turn's requests. In each turn all servers come once, in an order drawn
    anew; `turn` counts on from block to block, of these numbers.
    """
    generator = np.random.default_rng((seed, numbers.start))
    blocks: list[list[Block]] = [[] for _ in names]
    for block in numbers:
        turns: list[list[Turn]] = [[] for _ in names]
        for turn in range(num_turns):
            for server in generator.permutation(len(names)):
                turns[server].append(take(int(server), block * num_turns + turn))
        for of_server, taken in zip(blocks, turns, strict=True):
            of_server.append(Block.of(taken))
    return [Series(name, (tuple(of_server),)) for name, of_server in zip(names, blocks, strict=True)]
