"""Many requests to servers whose memory is read meanwhile: whether it grows by them."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

from exfm.errors import ConfigError
from exfm_bench.ratios import CONFIDENCE, Interval
from exfm_bench.serving.client import Client
from exfm_bench.serving.config import ServingBenchConfig
from exfm_bench.serving.measuring import Say
from exfm_bench.serving.models import of_rows
from exfm_bench.serving.servers import TWO_SHARDS, Bundles, serving

ROWS = 10_000
"""Rows of each table."""

NUM_PARTS = 50
"""Parts of all requests; after each part, memory is read."""

NUM_SETTLING = 10
"""Parts before those that count: buffers, caches and the allocator's arenas find their size."""

FLAT_BYTES = 10.0
"""Largest growth per request that counts as flat, in bytes. A leak of one Python object per request is larger."""


@dataclass(frozen=True)
class Grown:
    """One process's own memory, in bytes, after each part of the requests."""

    process: str
    requests_a_part: int
    anonymous_bytes: tuple[int, ...]
    num_failed: int
    """Failed requests, of all."""

    @property
    def bytes_a_request(self) -> Interval:
        """Return the slope: the median of those between any two parts that count, which a step at once moves little."""
        counted = self.anonymous_bytes[NUM_SETTLING:]
        requests = self.requests_a_part * np.arange(len(counted))
        slope, _, low, high = theilslopes(counted, requests, CONFIDENCE)
        return Interval(float(slope), float(low), float(high))

    @property
    def is_flat(self) -> bool:
        """Return whether memory grows by no more than FLAT_BYTES a request, with CONFIDENCE, and none failed."""
        return self.num_failed == 0 and self.bytes_a_request.high <= FLAT_BYTES

    def to_dict(self) -> dict[str, Any]:
        """Return the raw numbers, as JSON can hold them."""
        return {
            "process": self.process,
            "requests_a_part": self.requests_a_part,
            "anonymous_bytes": list(self.anonymous_bytes),
            "num_failed": self.num_failed,
        }


def measure_memory(config: ServingBenchConfig, bundles: Bundles, *, say: Say) -> list[Grown]:
    """Return the memory of each process of two shards and their ranker, while the ranker answered requests.

    Raises: ServingError if servers do not start; ConfigError where the kernel does not report memory.
    """
    candidates, per_part = config.memory.candidates, -(-config.memory.requests // NUM_PARTS)
    model = of_rows(ROWS, num_tables=config.sweep.num_tables, dim=config.sweep.dim)
    messages = model.messages(config.distinct_requests, candidates=candidates, seed=config.seed)
    bundle = bundles.of("memory", model, TWO_SHARDS, candidates=candidates)
    say(f"  {TWO_SHARDS}: {per_part * NUM_PARTS:,} requests of {candidates} candidates")
    with ExitStack() as stack, Client() as client:
        local = stack.enter_context(serving(bundle, threads=1, precision=config.dense_precision, variant=TWO_SHARDS))
        server = client.server(str(TWO_SHARDS), local, messages)
        held, num_failed = [], 0
        for _ in range(NUM_PARTS):
            num_failed += client.send(server, per_part).num_failed
            held.append([anonymous_bytes(pid) for pid in server.pids])
    return [
        Grown("ranker" if place == 0 else f"shard {place - 1}", per_part, anonymous, num_failed)
        for place, anonymous in enumerate(zip(*held, strict=True))
    ]


def anonymous_bytes(pid: int) -> int:
    """Return the memory of a process that no file is behind: what it allocated.

    Raises: ConfigError where the kernel does not report it.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
        [size] = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    except (OSError, ValueError) as error:
        raise ConfigError(f"the memory of process {pid} cannot be read ({error}); measure on Linux") from error
    return int(size) * 1024
