"""Records the ids of requests, hashed, for statistics."""

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
from prometheus_client import Counter

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.rows import Keys
from exfm.artifact.trace import Requests, TraceWriter
from exfm.errors import ConfigError, StorageError
from exfm.features.batch import Bags, NetBatches
from exfm.schema import NETS, Net, Schema
from exfm.serving.config import RankerConfig
from exfm.serving.ranker.backlog import Backlog, Limits, bytes_of_starts, folder_of_this_start

logger = logging.getLogger(__name__)

RECORDED = Counter("exfm_ranker_recorded_requests", "Requests that were written to the trace")
DROPPED = Counter(
    "exfm_ranker_dropped_requests",
    "Requests chosen for the trace, but lost: `full` came faster than they could be written, `failed` not at all",
    ["reason"],
)
for _reason in ("full", "failed"):
    DROPPED.labels(reason=_reason)  # shows 0 before the first

VALUE_BYTES = 8
"""Of a key; a length takes half of it."""
FLUSH_S = 30.0
"""Age at which requests are written though they fill no file."""
MAX_WAITING_VALUES = 8 * 2**20
"""Keys and lengths that may wait: 64 MiB."""
FILE_VALUES = 2**20
"""Keys and lengths that fill a file: 8 MiB."""
FILE_REQUESTS = 1_000
"""Requests that fill a file."""
PAUSE_S = 0.001
"""For requests, after each feature."""


@dataclass(frozen=True)
class _Waiting:
    """What is recorded of a request, and nothing else of it: numbers of its items may be many times as large."""

    arrival_ns: int
    bags: Mapping[str, Bags]
    num_rows: Mapping[Net, int]


class Recorder:
    """Takes requests, a share of them at random, until there are as many, or as many bytes, as the settings allow."""

    def __init__(self, writer: TraceWriter, schema: Schema, config: RankerConfig, *, room_bytes: int) -> None:
        """Write so much with `writer`, from a thread of its own."""
        self._writer = writer
        self._schema = schema
        self._config = config
        self._random = random.Random(config.trace_seed)
        self._max_values = room_bytes // VALUE_BYTES
        self._is_full = False
        self._num_taken = self._values_taken = 0
        limits = Limits(
            waiting_size=MAX_WAITING_VALUES, block_size=FILE_VALUES, block_items=FILE_REQUESTS, block_s=FLUSH_S
        )
        self._backlog = Backlog[_Waiting](self._write, limits, name="recorder")

    @classmethod
    def start(cls, manifest: BundleManifest, config: RankerConfig) -> Self | None:
        """Return what records a bundle's requests into a new folder below the one of the settings, or None without one.

        Raises: ConfigError if nothing can be written there.
        """
        if not config.trace_folder:
            return None
        folder = folder_of_this_start(config.trace_folder, model=manifest.name)
        try:
            before_bytes = bytes_of_starts(folder.parent, model=manifest.name, pattern="*")
            writer = TraceWriter(
                folder,
                model=manifest.name,
                bundle_id=manifest.bundle_id,
                sampling_rate=config.trace_sampling_rate,
                schema=manifest.feature_schema,
            )
        except (OSError, StorageError) as error:
            raise ConfigError(f"trace_folder: {error}") from error
        room_bytes = config.trace_max_mib * 2**20 - before_bytes
        logger.info(
            "recording up to %d requests, %d MiB, in %s (earlier starts left %d MiB there)",
            config.trace_max_requests,
            max(0, room_bytes) // 2**20,
            folder,
            before_bytes // 2**20,
        )
        return cls(writer, manifest.feature_schema, config, room_bytes=room_bytes)

    def offer(self, batches: NetBatches, *, arrival_ns: int) -> None:
        """Take a request that arrived then, or not; never waits, and never fails."""
        if self._is_full or self._random.random() >= self._config.trace_sampling_rate:
            return
        bags = {name: one for net in NETS for name, one in batches.of(net).bags.items()}
        num_values = sum(len(one.keys) + len(one.offsets) for one in bags.values())
        if self._values_taken + num_values > self._max_values:
            self._end()
            return
        num_rows = {net: batches.of(net).num_rows for net in NETS}
        if not self._backlog.offer(_Waiting(arrival_ns, bags, num_rows), size=num_values):
            DROPPED.labels(reason="full").inc()
            return
        self._values_taken += num_values
        self._num_taken += 1
        if self._num_taken == self._config.trace_max_requests:
            self._end()

    def close(self) -> None:
        """Write what waits, and end."""
        self._backlog.close()

    def _end(self) -> None:
        self._is_full = True
        size_mib = self._values_taken * VALUE_BYTES / 2**20
        logger.info("took %d requests, up to %.0f MiB, for the trace, and take no more", self._num_taken, size_mib)

    def _write(self, block: Sequence[_Waiting], *, is_due: bool) -> None:
        if not block:
            return
        try:
            self._writer.add(_requests_of(block, self._schema))
        except StorageError as error:
            DROPPED.labels(reason="failed").inc(len(block))
            logger.error("%d requests are lost to the trace: %s", len(block), error)
        else:
            RECORDED.inc(len(block))


def _requests_of(block: Sequence[_Waiting], schema: Schema) -> Requests:
    keys: dict[str, Keys] = {}
    lengths: dict[str, npt.NDArray[np.int32]] = {}
    for feature in schema.sparse:
        bags = [request.bags[feature.name] for request in block]
        keys[feature.name] = np.concatenate([one.keys for one in bags])
        ends, starts = (np.concatenate([one.offsets[part] for one in bags]) for part in (slice(1, None), slice(-1)))
        lengths[feature.name] = (ends - starts).astype(np.int32)
        time.sleep(PAUSE_S)
    return Requests(
        arrival_ns=np.array([request.arrival_ns for request in block], dtype=np.int64),
        num_rows={net: np.array([request.num_rows[net] for request in block], dtype=np.int64) for net in NETS},
        keys=keys,
        lengths=lengths,
    )
