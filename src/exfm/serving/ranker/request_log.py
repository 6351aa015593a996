"""Logs requests with their answers, as impressions: for table statistics, and with feedback for an event log.

Each start of a ranker has its own folder:

schema.json                          schema for `exfm ingest check`; locked while files may still come
impressions/impressions-0000.parquet rows of exfm.features.impressions; a file appears complete, and may be moved away
"""

import contextlib
import fcntl
import logging
import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
from exfm.serving.ranker.backlog import Backlog, bytes_of_starts, folder_of_this_start, has_ended, starts_of_host
from exfm.serving.requests.call import Answer

logger = logging.getLogger(__name__)

LOGGED = Counter("exfm_ranker_logged_requests", "Requests that were written to the log")
NOT_LOGGED = Counter(
    "exfm_ranker_unlogged_requests",
    "Requests chosen for the log but not logged. `full`: they came faster than they are written; `large`: too many "
    "rows; `paused`: no room in the folder; `failed`: could not be written",
    ["reason"],
)
for _reason in ("full", "large", "paused", "failed"):
    NOT_LOGGED.labels(reason=_reason)  # exported as 0 before the first drop

LOGGED_AS = "logged_as"
"""Parameter of a logged request's answer: candidate n's impression is `<logged_as>-<n>`, n from 0."""

MAX_WAITING_BYTES = 128 * 2**20
"""Size of all waiting requests, as rows. In memory they take less: a user's features are there once."""
MAX_REQUEST_BYTES = 8 * 2**20
"""Largest size of a logged request, as rows."""
BLOCK_BYTES = 2 * 2**20
"""Size of the rows that are written at once. Larger blocks take less CPU time but delay requests more."""
BLOCK_REQUESTS = 1_000
"""Most requests whose rows are written at once."""
FILE_BYTES = 8 * 2**20
"""Size of a full file."""
ROOM_BYTES = 16 * 2**20
"""Free room that a new file needs."""
TEXT_BYTES = 41
"""Memory of a waiting id that is text, in addition to its characters."""
HOLD_S, PAUSE_S = 0.0005, 0.001
"""Time for which the thread may hold the interpreter (one part of its work may take longer), and the pause after it."""

Part = TypeVar("Part")


@dataclass(frozen=True)
class _Waiting:
    id: str
    arrival_ns: int
    tensors: Mapping[str, Tensor]
    answer: Answer
    num_shown: int | None


class RequestLog:
    """Logs a random share of requests with their answers, while there is room."""

    def __init__(self, manifest: BundleManifest, config: RequestLogConfig) -> None:
        """Log requests of a bundle in a new folder below the one of the settings, from an own thread.

        Raises: ConfigError if the folder is not writable, or requests lack columns of an impression.
        """
        self._manifest = manifest
        self._schema = manifest.feature_schema
        try:
            require_loggable(self._schema, domain=config.domain)
        except SchemaError as error:
            raise ConfigError(f"request_log.folder: {error}") from error
        folder = self._folder = folder_of_this_start(config.folder, model=manifest.name)
        try:
            _remove_unfinished(folder.parent, model=manifest.name)
            (folder / "impressions").mkdir(parents=True)
            write_json(folder / "schema.json", log_schema(self._schema).to_dict())
            self._open = (folder / "schema.json").open("rb")
            fcntl.flock(self._open, fcntl.LOCK_EX)  # until this process ends, however it does: an exporter waits for it
        except OSError as error:
            raise ConfigError(f"request_log.folder: {folder}: {error.strerror}; let this user write there") from error
        logger.info("logging %g of all requests, up to %d MiB, in %s", config.sampling_rate, config.max_mib, folder)
        self._user_features = self._schema.feature_names(["user"])
        self._config = config
        self._served = Served(model=manifest.name, bundle_id=manifest.bundle_id, sampling_rate=config.sampling_rate)
        self._start_id = secrets.token_hex(8)
        self._num_taken = 0
        self._is_paused = False
        self._pause(not self._has_room())
        self._file: ImpressionsFile | None = None
        self._num_files = self._num_in_file = 0
        self._backlog = Backlog[_Waiting](
            self._write,
            waiting_size=MAX_WAITING_BYTES,
            block_size=BLOCK_BYTES,
            block_items=BLOCK_REQUESTS,
            block_s=config.file_s,
        )

    def logged(
        self, tensors: Mapping[str, Tensor], answer: Answer, *, arrival_ns: int, num_shown: int | None = None
    ) -> Answer:
        """Return a request's answer, with LOGGED_AS if the request is logged; never waits, never fails.

        `num_shown` is the request's own, or None.
        """
        if not _num_rows(answer) or random.random() >= self._config.sampling_rate:
            return answer
        if self._is_paused:
            return _unlogged(answer, "paused")
        size_bytes = self._bytes_of_rows(tensors, answer)
        if size_bytes > MAX_REQUEST_BYTES:
            return _unlogged(answer, "large")
        id_ = f"{self._start_id}-{self._num_taken}"
        if not self._backlog.offer(_Waiting(id_, arrival_ns, tensors, answer, num_shown), size=size_bytes):
            return _unlogged(answer, "full")
        self._num_taken += 1
        return answer.with_parameter(LOGGED_AS, id_)

    def close(self) -> None:
        """Write all waiting requests, and end."""
        self._backlog.close()
        self._open.close()

    def _bytes_of_rows(self, tensors: Mapping[str, Tensor], answer: Answer) -> int:
        """Return the largest possible size of a request's rows: each row repeats its user's features."""
        of_users = sum(_bytes_of(tensors[name]) for name in self._user_features)
        counts = tensors.get(NUM_CANDIDATES)
        most = _num_rows(answer) if counts is None else int(counts.values.max(initial=0))
        return sum(map(_bytes_of, tensors.values())) + (most - 1) * of_users

    def _write(self, block: Sequence[_Waiting], is_due: bool) -> None:
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
        """Write requests' rows into the current file, or into a new one."""
        if self._is_paused:  # it was paused after they were taken
            NOT_LOGGED.labels(reason="paused").inc(len(block))
            return
        try:
            answered = _pausing(map(self._answered, block))
            columns = columns_of(answered, self._schema, domain=self._config.domain, served=self._served)
            table = table_of(_pausing(columns), answered)
        except Exception:  # an error of ours loses only these requests
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
            num_shown=one.num_shown,
        )

    def _finish(self, file: ImpressionsFile) -> None:
        file.finish()
        LOGGED.inc(self._num_in_file)
        self._file, self._num_in_file = None, 0
        self._pause(not self._has_room())

    def _lose(self, error: StorageError) -> None:
        """Discard the current file, and pause until the next one is due."""
        NOT_LOGGED.labels(reason="failed").inc(self._num_in_file)
        logger.error("%d requests are lost to the log, which pauses: %s", self._num_in_file, error)
        if self._file is not None:
            self._file.discard()
        self._file, self._num_in_file = None, 0
        self._is_paused = True

    def _pause(self, is_paused: bool) -> None:
        """Pause or resume, and log a change."""
        if is_paused and not self._is_paused:
            logger.warning(
                "the log is paused: no room for another file; move files away from %s, or raise request_log.max_mib",
                self._folder.parent,
            )
        if self._is_paused and not is_paused:
            logger.info("the log resumes")
        self._is_paused = is_paused

    def _has_room(self) -> bool:
        size_bytes = bytes_of_starts(self._folder.parent, model=self._manifest.name, pattern="**/*.parquet*")
        return size_bytes + ROOM_BYTES <= self._config.max_mib * 2**20


def _remove_unfinished(parent: Path, *, model: str) -> None:
    """Remove unfinished files of killed servers of this host: they are unreadable and take room."""
    for folder, pid in starts_of_host(parent, model=model).items():
        if has_ended(pid):
            with contextlib.suppress(FileNotFoundError):  # it was moved away
                for partial in folder.glob(".*.partial"):
                    partial.unlink(missing_ok=True)


def _unlogged(answer: Answer, reason: str) -> Answer:
    NOT_LOGGED.labels(reason=reason).inc()
    return answer


def _pausing(parts: Iterable[Part]) -> list[Part]:
    """Return all parts, with pauses for requests while they are made."""
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
