"""Records requests beside serving them. They wait in memory for a thread that writes them; none waits for it.

A request costs its answer the append to a list. The thread looks there twice a second instead of being woken, and lets
go of the interpreter after each feature: what it holds it for is what requests wait for.
"""

import logging
import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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
POLL_S = 0.5
"""Pause between two looks at what waits."""
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
    num_values: int


class Recorder:
    """Takes requests, a share of them at random, until there are as many, or as many bytes, as the settings allow."""

    def __init__(self, writer: TraceWriter, schema: Schema, config: RankerConfig) -> None:
        """Write with `writer`, from a thread of its own."""
        self._writer = writer
        self._schema = schema
        self._config = config
        self._random = random.Random(config.trace_seed)
        self._max_values = config.trace_max_mib * 2**20 // VALUE_BYTES
        self._is_full = False
        self._waiting: deque[_Waiting] = deque()
        # Each is added to by one thread alone, so no lock is needed, and none can hold a request up.
        self._num_taken = self._values_taken = self._values_written = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    @classmethod
    def start(cls, manifest: BundleManifest, config: RankerConfig) -> Self | None:
        """Return what records a bundle's requests into a new folder below the one of the settings, or None without one.

        Raises: ConfigError if nothing can be written there.
        """
        if not config.trace_folder:
            return None
        began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        folder = Path(config.trace_folder) / f"{manifest.name}-{began}-{socket.gethostname()}-{os.getpid()}"
        try:
            writer = TraceWriter(
                folder,
                model=manifest.name,
                bundle_id=manifest.bundle_id,
                sampling_rate=config.trace_sampling_rate,
                schema=manifest.feature_schema,
            )
        except StorageError as error:
            raise ConfigError(f"trace_folder: {error}") from error
        logger.info(
            "recording up to %d requests, %d MiB, in %s", config.trace_max_requests, config.trace_max_mib, folder
        )
        return cls(writer, manifest.feature_schema, config)

    def offer(self, batches: NetBatches, *, arrival_ns: int) -> None:
        """Take a request that arrived then, or not; never waits, and never fails."""
        if self._is_full or self._random.random() >= self._config.trace_sampling_rate:
            return
        bags = {name: one for net in NETS for name, one in batches.of(net).bags.items()}
        num_values = sum(len(one.keys) + len(one.offsets) for one in bags.values())
        if self._values_taken + num_values > self._max_values:
            self._end()
        elif self._values_taken + num_values - self._values_written > MAX_WAITING_VALUES:
            DROPPED.labels(reason="full").inc()
        else:
            self._values_taken += num_values
            self._num_taken += 1
            num_rows = {net: batches.of(net).num_rows for net in NETS}
            self._waiting.append(_Waiting(arrival_ns, bags, num_rows, num_values))
            if self._num_taken == self._config.trace_max_requests:
                self._end()

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._thread.join()

    def _end(self) -> None:
        self._is_full = True
        size_mib = self._values_taken * VALUE_BYTES / 2**20
        logger.info("took %d requests, up to %.0f MiB, for the trace, and take no more", self._num_taken, size_mib)

    def _write(self) -> None:
        block: list[_Waiting] = []
        num_values = 0
        written_s = time.monotonic()
        is_last = False
        while not is_last:
            is_last = self._closing.wait(POLL_S)
            while self._waiting or block:
                is_full = num_values >= FILE_VALUES or len(block) >= FILE_REQUESTS
                is_due = is_last or time.monotonic() - written_s > FLUSH_S
                if is_full or (is_due and not self._waiting):
                    self._write_block(block)
                    block, num_values, written_s = [], 0, time.monotonic()
                elif self._waiting:
                    block.append(self._waiting.popleft())
                    num_values += block[-1].num_values
                else:
                    break

    def _write_block(self, block: Sequence[_Waiting]) -> None:
        try:
            self._writer.add(_requests_of(block, self._schema))
        except StorageError as error:
            DROPPED.labels(reason="failed").inc(len(block))
            logger.error("%d requests are lost to the trace: %s", len(block), error)
        else:
            RECORDED.inc(len(block))
        self._values_written += sum(request.num_values for request in block)


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
