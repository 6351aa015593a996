"""Logs requests with their answers, as impressions: for table statistics, and with feedback for an event log.

One folder a start of a ranker:

schema.json                          with which `exfm ingest log` reads the rest
impressions/impressions-0000.parquet rows of exfm.features.impressions; a file appears whole, and may be taken away
"""

import contextlib
import logging
import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from prometheus_client import Counter

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import write_json
from exfm.errors import ConfigError, SchemaError, StorageError
from exfm.features.impressions import (
    Answered,
    ImpressionsFile,
    Served,
    columns_of,
    log_schema,
    require_loggable,
    table_of,
)
from exfm.features.oip import Tensor
from exfm.features.request import raw_request
from exfm.schema import NUM_CANDIDATES
from exfm.serving.config import RequestLogConfig
from exfm.serving.ranker.backlog import (
    Backlog,
    Limits,
    bytes_of_starts,
    folder_of_this_start,
    has_ended,
    starts_of_host,
)
from exfm.serving.requests.call import Answer

logger = logging.getLogger(__name__)

LOGGED = Counter("exfm_ranker_logged_requests", "Requests that were written to the log")
NOT_LOGGED = Counter(
    "exfm_ranker_unlogged_requests",
    "Requests chosen for the log, but not in it: `full` came faster than they could be written, `large` have too many "
    "rows, `paused` found no room in the folder, `failed` could not be written",
    ["reason"],
)
for _reason in ("full", "large", "paused", "failed"):
    NOT_LOGGED.labels(reason=_reason)  # shows 0 before the first

LOGGED_AS = "logged_as"
"""Parameter of the answer to a request that is logged: candidate n's impression is `<logged_as>-<n>`, n from 0."""

MAX_WAITING_BYTES = 128 * 2**20
"""Of features in the rows of requests that wait; what waits itself has a user's once, so it takes less."""
MAX_REQUEST_BYTES = 8 * 2**20
"""Of features in the rows of a request that is logged."""
BLOCK_BYTES = 2 * 2**20
"""Of features in rows that are written at once: 8 ms of a core. Blocks of 8 MiB took 10 % less CPU time, but a ranker
that logged all had P99 1.58 times that without a log, not 1.37 (two busy cores, 2026-11)."""
BLOCK_REQUESTS = 1_000
"""Requests whose rows are written at once."""
FILE_BYTES = 8 * 2**20
"""Size that makes a file full."""
ROOM_BYTES = 16 * 2**20
"""Room that a new file wants: its last rows may be many."""
TEXT_BYTES = 41
"""Of an id that is text, beside its letters, while it waits."""
HOLD_S, PAUSE_S = 0.0005, 0.001
"""Time for which the thread may hold the interpreter, but for a single part of its work, and the pause after it."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class _Waiting:
    id: str
    arrival_ns: int
    tensors: Mapping[str, Tensor]
    answer: Answer


class RequestLog:
    """Takes requests with their answers, a share of them at random, while there is room for them."""

    def __init__(self, folder: Path, manifest: BundleManifest, config: RequestLogConfig) -> None:
        """Write into a folder, which is there, from a thread of its own."""
        self._folder = folder
        self._manifest = manifest
        self._schema = manifest.feature_schema
        self._user_features = self._schema.feature_names(["user"])
        self._config = config
        self._served = Served(model=manifest.name, bundle_id=manifest.bundle_id, sampling_rate=config.sampling_rate)
        self._start_id = secrets.token_hex(8)
        self._num_taken = 0
        self._is_paused = False
        self._pause(not self._has_room())
        self._file: ImpressionsFile | None = None
        self._num_files = self._num_in_file = 0
        limits = Limits(
            waiting_size=MAX_WAITING_BYTES,
            block_size=BLOCK_BYTES,
            block_items=BLOCK_REQUESTS,
            block_s=config.file_s,
        )
        self._backlog = Backlog[_Waiting](self._write, limits, name="request log")

    @classmethod
    def start(cls, manifest: BundleManifest, config: RequestLogConfig) -> Self:
        """Return the log of a bundle's requests in a new folder below the one of the settings.

        Raises: ConfigError if nothing can be written there, or requests do not tell all that an impression has.
        """
        schema = manifest.feature_schema
        try:
            require_loggable(schema, domain=config.domain)
        except SchemaError as error:
            raise ConfigError(f"request_log.folder: {error}") from error
        folder = folder_of_this_start(config.folder, model=manifest.name)
        try:
            _remove_unfinished(folder.parent, model=manifest.name)
            (folder / "impressions").mkdir(parents=True)
            write_json(folder / "schema.json", log_schema(schema).to_dict())
        except OSError as error:
            raise ConfigError(f"request_log.folder: {folder}: {error.strerror}; let this user write there") from error
        logger.info("logging %g of all requests, up to %d MiB, in %s", config.sampling_rate, config.max_mib, folder)
        return cls(folder, manifest, config)

    def logged(self, tensors: Mapping[str, Tensor], answer: Answer, *, arrival_ns: int) -> Answer:
        """Return the answer to a request, which tells what it is logged as, if it is; never waits, and never fails."""
        if not _num_rows(answer) or random.random() >= self._config.sampling_rate:
            return answer
        if self._is_paused:
            return _unlogged(answer, "paused")
        size_bytes = self._bytes_of_rows(tensors, answer)
        if size_bytes > MAX_REQUEST_BYTES:
            return _unlogged(answer, "large")
        id_ = f"{self._start_id}-{self._num_taken}"
        if not self._backlog.offer(_Waiting(id_, arrival_ns, tensors, answer), size=size_bytes):
            return _unlogged(answer, "full")
        self._num_taken += 1
        return answer.telling(LOGGED_AS, id_)

    def close(self) -> None:
        """Write what waits, and end."""
        self._backlog.close()

    def _bytes_of_rows(self, tensors: Mapping[str, Tensor], answer: Answer) -> int:
        """Return what a request's rows take at most: in each of a user's is all that it has."""
        of_users = sum(_bytes_of(tensors[name]) for name in self._user_features)
        counts = tensors.get(NUM_CANDIDATES)
        most = _num_rows(answer) if counts is None else int(counts.values.max(initial=0))
        return sum(map(_bytes_of, tensors.values())) + (most - 1) * of_users

    def _write(self, block: Sequence[_Waiting], *, is_due: bool) -> None:
        try:
            if block:
                self._add(block)
            if self._file is not None and (is_due or self._file.size_bytes >= FILE_BYTES):
                self._finish(self._file)
            elif is_due:
                self._pause(not self._has_room())
        except StorageError as error:
            self._lose(error)

    def _add(self, block: Sequence[_Waiting]) -> None:
        """Write requests' rows into the file that is begun, or into a new one."""
        if self._is_paused:  # since they were taken
            NOT_LOGGED.labels(reason="paused").inc(len(block))
            return
        try:
            answered = _pausing(map(self._answered, block))
            columns = columns_of(answered, self._schema, domain=self._config.domain, served=self._served)
            table = table_of(_pausing(columns), answered)
        except Exception:  # a fault of ours, which costs these alone
            NOT_LOGGED.labels(reason="failed").inc(len(block))
            logger.exception("%d requests are lost to the log", len(block))
            return
        self._num_in_file += len(block)
        if self._file is None:
            name = f"impressions-{self._num_files:04d}.parquet"
            self._file = ImpressionsFile(self._folder / "impressions" / name, partial=self._folder / f".{name}.partial")
            self._num_files += 1
        self._file.add(table)

    def _answered(self, one: _Waiting) -> Answered:
        return Answered(
            id=one.id,
            arrival_ns=one.arrival_ns,
            raw=raw_request(one.tensors, self._schema),
            scores=one.answer.outputs,
            is_degraded=bool(one.answer.parameters["degraded"]),
        )

    def _finish(self, file: ImpressionsFile) -> None:
        file.finish()
        LOGGED.inc(self._num_in_file)
        self._file, self._num_in_file = None, 0
        self._pause(not self._has_room())

    def _lose(self, error: StorageError) -> None:
        """Give up the file that is begun, and try no other before the next is due."""
        NOT_LOGGED.labels(reason="failed").inc(self._num_in_file)
        logger.error("%d requests are lost to the log, which pauses: %s", self._num_in_file, error)
        if self._file is not None:
            self._file.discard()
        self._file, self._num_in_file = None, 0
        self._is_paused = True

    def _pause(self, is_paused: bool) -> None:
        """Pause or go on, and say so if that is new."""
        if is_paused and not self._is_paused:
            logger.warning(
                "the log has no room for another file and pauses; take some from %s, or raise request_log.max_mib",
                self._folder.parent,
            )
        if self._is_paused and not is_paused:
            logger.info("the log goes on")
        self._is_paused = is_paused

    def _has_room(self) -> bool:
        size_bytes = bytes_of_starts(self._folder.parent, model=self._manifest.name, pattern="**/*.parquet*")
        return size_bytes + ROOM_BYTES <= self._config.max_mib * 2**20


def _remove_unfinished(parent: Path, *, model: str) -> None:
    """Remove what starts of this host that were killed had begun to write: nobody can read it, and it takes room."""
    for folder, pid in starts_of_host(parent, model=model).items():
        if has_ended(pid):
            with contextlib.suppress(FileNotFoundError):  # it was taken away
                for partial in folder.glob(".*.partial"):
                    partial.unlink(missing_ok=True)


def _unlogged(answer: Answer, reason: str) -> Answer:
    NOT_LOGGED.labels(reason=reason).inc()
    return answer


def _pausing(parts: Iterable[Part]) -> list[Part]:
    """Return parts whose making takes time, with pauses for requests."""
    made = []
    since_s = time.perf_counter()
    for part in parts:
        made.append(part)
        if time.perf_counter() - since_s > HOLD_S:
            time.sleep(PAUSE_S)
            since_s = time.perf_counter()
    return made


def _num_rows(answer: Answer) -> int:
    return len(next(iter(answer.outputs.values())))


def _bytes_of(tensor: Tensor) -> int:
    values = tensor.values
    return values.nbytes if tensor.datatype != "BYTES" else sum(map(len, values.tolist())) + TEXT_BYTES * values.size
