"""What a ranker writes down beside its answers: it waits in memory for a thread that writes it; no request waits.

A request costs its answer the append to a list. The thread looks there twice a second instead of being woken. It should
let go of the interpreter often: what it holds it for is what requests wait for.
"""

import logging
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

POLL_S = 0.5
"""Pause between two looks at what waits."""

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
AnyItem = TypeVar("AnyItem", contravariant=True)


class Write(Protocol[AnyItem]):
    """Writes items down; it must not fail."""

    def __call__(self, block: Sequence[AnyItem], *, is_due: bool) -> None:
        """Write a block; one that is due, as its time is over or nothing comes any more, may be empty."""


@dataclass(frozen=True)
class Limits:
    """Sizes are in the unit of the items'."""

    waiting_size: int
    """That may wait."""
    block_size: int
    """That makes a block full."""
    block_items: int
    """That make a block full."""
    block_s: float
    """Time after which a block is written though it is not full, in seconds."""


class Backlog(Generic[Item]):
    """Items on their way to the thread."""

    def __init__(self, write: Write[Item], limits: Limits, *, name: str) -> None:
        """Write with `write`, from a thread of that name."""
        self._write = write
        self._limits = limits
        self._waiting: deque[tuple[Item, int]] = deque()
        # Each is added to by one thread alone, so no lock is needed, and none can hold a request up.
        self._size_taken = self._size_written = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name=name, daemon=True)
        self._thread.start()

    def offer(self, item: Item, *, size: int) -> bool:
        """Take an item and return True, or return False if too much waits; never waits, and never fails."""
        if self._size_taken + size - self._size_written > self._limits.waiting_size:
            return False
        self._size_taken += size
        self._waiting.append((item, size))
        return True

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        self._thread.join()

    def _keep_writing(self) -> None:
        block: list[Item] = []
        size = 0
        due_s = time.monotonic() + self._limits.block_s
        is_last = False
        while not is_last:
            is_last = self._closing.wait(POLL_S)
            for _ in range(len(self._waiting)):
                item, item_size = self._waiting.popleft()
                block.append(item)
                size += item_size
                if size >= self._limits.block_size or len(block) >= self._limits.block_items:
                    self._write_block(block, size, is_due=False)
                    block, size = [], 0
            if is_last or time.monotonic() >= due_s:
                self._write_block(block, size, is_due=True)
                block, size = [], 0
                due_s = time.monotonic() + self._limits.block_s

    def _write_block(self, block: Sequence[Item], size: int, *, is_due: bool) -> None:
        try:
            self._write(block, is_due=is_due)
        except Exception:  # a fault of ours must not end the thread: what comes after would wait for ever
            logger.exception("%s: %d items are lost", self._thread.name, len(block))
        self._size_written += size


def folder_of_this_start(parent: str, *, model: str) -> Path:
    """Return the folder below `parent` for what this process writes down of a model, from now on."""
    began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return Path(parent) / f"{model}-{began}-{socket.gethostname()}-{os.getpid()}"


def starts_of_host(parent: Path, *, model: str) -> dict[Path, int]:
    """Return the folders of all starts of this host, or pod, there that served a model, and their processes."""
    form = re.compile(rf"{re.escape(model)}-\d{{8}}T\d{{6}}-{re.escape(socket.gethostname())}-(\d{{1,9}})")
    folders = parent.iterdir() if parent.is_dir() else ()
    return {folder: int(match[1]) for folder in folders if (match := form.fullmatch(folder.name))}


def bytes_of_starts(parent: Path, *, model: str, pattern: str) -> int:
    """Return the size of these files of all starts of this host there; what is taken away meanwhile does not count."""
    size_bytes = 0
    for folder in starts_of_host(parent, model=model):
        with suppress(OSError):
            for file in folder.glob(pattern):
                with suppress(OSError):
                    size_bytes += file.stat().st_size
    return size_bytes


def has_ended(pid: int) -> bool:
    """Return whether the process of an earlier start is gone; one that had our number is."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)  # which asks whether it could be
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False
