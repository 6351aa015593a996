"""Items that wait in memory for a thread that writes them, so that no request waits.

A request only appends to a list. The thread polls the list instead of being woken. It should release the interpreter
often, because requests wait for it meanwhile.
"""

import logging
import os
import re
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

POLL_S = 0.5
"""Pause between two polls."""

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Backlog(Generic[Item]):
    """Waiting items, and the thread that writes them."""

    def __init__(
        self,
        write: Callable[[Sequence[Item], bool], None],
        *,
        waiting_size: int,
        block_size: int,
        block_items: int,
        block_s: float,
    ) -> None:
        """Write blocks of items by `write`, from a thread, while all waiting items fit `waiting_size`.

        A block is written when it has `block_size` or `block_items`. A block is due after `block_s` and at the end of
        the process, even if it is empty. `write` must not fail; its second argument says whether the block is due.
        """
        self._write = write
        self._waiting_size, self._block_size, self._block_items = waiting_size, block_size, block_items
        self._block_s = block_s
        self._waiting: deque[tuple[Item, int]] = deque()
        # Only one thread adds to each counter, so no lock is needed that could delay a request.
        self._size_taken = self._size_written = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="request log", daemon=True)
        self._thread.start()

    def offer(self, item: Item, *, size: int) -> bool:
        """Take an item and return True, or return False if the backlog is full; never waits, never fails."""
        if self._size_taken + size - self._size_written > self._waiting_size:
            return False
        self._size_taken += size
        self._waiting.append((item, size))
        return True

    def close(self) -> None:
        """Write all waiting items, and end the thread."""
        self._closing.set()
        self._thread.join()

    def _keep_writing(self) -> None:
        block: list[Item] = []
        size = 0
        due_s = time.monotonic() + self._block_s
        is_last = False
        while not is_last:
            is_last = self._closing.wait(POLL_S)
            for _ in range(len(self._waiting)):
                item, item_size = self._waiting.popleft()
                block.append(item)
                size += item_size
                if size >= self._block_size or len(block) >= self._block_items:
                    self._write_block(block, size, is_due=False)
                    block, size = [], 0
            if is_last or time.monotonic() >= due_s:
                self._write_block(block, size, is_due=True)
                block, size = [], 0
                due_s = time.monotonic() + self._block_s

    def _write_block(self, block: Sequence[Item], size: int, *, is_due: bool) -> None:
        try:
            self._write(block, is_due)
        except Exception:  # an error of ours must not end the thread: later items would never be written
            logger.exception("%s: %d items are lost", self._thread.name, len(block))
        self._size_written += size


def folder_of_this_start(parent: str, *, model: str) -> Path:
    """Return the folder below `parent` for this process's files of a model."""
    began = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    return Path(parent) / f"{model}-{began}-{socket.gethostname()}-{os.getpid()}"


def starts_of_host(parent: Path, *, model: str) -> dict[Path, int]:
    """Return the folders below `parent` of this host's servers of a model, with their process ids."""
    form = re.compile(rf"{re.escape(model)}-\d{{8}}T\d{{6}}-{re.escape(socket.gethostname())}-(\d{{1,9}})")
    folders = parent.iterdir() if parent.is_dir() else ()
    return {folder: int(match[1]) for folder in folders if (match := form.fullmatch(folder.name))}


def bytes_of_starts(parent: Path, *, model: str, pattern: str) -> int:
    """Return the size of matching files of this host's servers of a model; files that vanish meanwhile do not count."""
    size_bytes = 0
    for folder in starts_of_host(parent, model=model):
        with suppress(OSError):
            for file in folder.glob(pattern):
                with suppress(OSError):
                    size_bytes += file.stat().st_size
    return size_bytes


def has_ended(pid: int) -> bool:
    """Return whether an earlier server's process has ended; one with this process's own id has."""
    try:
        os.kill(pid, 0)  # signal 0 only checks that the process exists
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return pid == os.getpid()
