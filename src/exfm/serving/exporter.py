"""python -m exfm.serving.exporter: upload a ranker's request log to a store, file by file, beside the ranker.

FOLDER/<model>-<start>/schema.json        -> TO/<model>/schema.json, of the newest start
FOLDER/<model>-<start>/impressions/<file> -> TO/<model>/impressions/<time of upload>-<model>-<start>-<file>

Names grow with the time of upload, because a data augmentation system ingests files in the order of their names. A file
is removed here once the store has it. An exporter that is killed in between uploads the file again, under another name;
its rows are then duplicates, which count once.
"""

import argparse
import fcntl
import logging
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from exfm.artifact.stores import join, write_file
from exfm.errors import StorageError

logger = logging.getLogger("exfm.serving.exporter")

EVERY_S = (1, 3_600)
"""Bounds of `--every-s`."""
LAST_S = 0.5
"""Pause between two looks once this process must end."""
HEARTBEAT = ".exporter-heartbeat"
"""File in the log's folder that is touched before each attempt: if it is old, an upload or a disk hangs."""

_START = re.compile(r"(.+?)-(\d{8}T\d{6}-.+)")
"""Name of a start's folder: the model, then the time of the start, host and process."""


@dataclass(frozen=True)
class Start:
    """What one start of a ranker logs."""

    model: str
    id: str
    """Time of the start, host and process."""
    folder: Path

    @property
    def schema(self) -> Path:
        """Return its schema, which appears before its files."""
        return self.folder / "schema.json"

    def is_open(self) -> bool:
        """Return whether its ranker runs, so that files may still come: a ranker has its schema locked."""
        try:
            with self.schema.open("rb") as schema:
                fcntl.flock(schema, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def files(self) -> list[Path]:
        """Return its finished files, in the order in which they were finished."""
        return sorted((self.folder / "impressions").glob("*.parquet"))


def starts_in(folder: Path) -> list[Start]:
    """Return the starts whose logs are in a folder, in order of time."""
    found = [
        Start(model=match[1], id=match[2], folder=one)
        for one in (folder.iterdir() if folder.is_dir() else ())
        if (match := _START.fullmatch(one.name))
    ]
    return sorted(found, key=lambda start: start.id)


class Exporter:
    """Uploads what is finished, once for each look."""

    def __init__(self, folder: Path, to: str) -> None:
        self._folder, self._to = folder, to
        self._schemas: set[Path] = set()
        self._named = datetime.min.replace(tzinfo=UTC)

    def export(self) -> int:
        """Upload and remove all finished files; return how many are left because the store refuses them."""
        self._beat()
        left, starts = 0, starts_in(self._folder)
        newest = {start.model: start for start in starts}
        for start in starts:
            try:
                if start == newest[start.model]:
                    self._export_schema(start)
                for file in start.files():
                    self._beat()
                    self._export_file(start, file)
            except StorageError as error:
                left += (waiting := len(start.files()))
                logger.error("%d files of %s wait for the next attempt: %s", waiting, start.folder, error)
            except Exception:  # a container that ends takes its pod's ranker out of service
                left += (waiting := len(start.files()))
                logger.exception("%d files of %s wait for the next attempt", waiting, start.folder)
        return left

    def is_over(self) -> bool:
        """Return whether nothing more will come."""
        return not any(start.is_open() for start in starts_in(self._folder))

    def _beat(self) -> None:
        if self._folder.is_dir():
            (self._folder / HEARTBEAT).touch()

    def _export_schema(self, start: Start) -> None:
        if start.schema not in self._schemas and start.schema.is_file():
            write_file(join(self._to, start.model, "schema.json"), start.schema.read_bytes())
            self._schemas.add(start.schema)

    def _export_file(self, start: Start, file: Path) -> None:
        uri = join(self._to, start.model, "impressions", f"{self._time()}-{start.folder.name}-{file.name}")
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return  # another exporter of a shared volume was first
        write_file(uri, content)
        file.unlink(missing_ok=True)
        logger.info("uploaded %d bytes: %s", len(content), uri)

    def _time(self) -> str:
        """Return the time in UTC, later each time, even if the clock is set back."""
        self._named = max(datetime.now(UTC), self._named + timedelta(microseconds=1))
        return f"{self._named:%Y-%m-%dT%H-%M-%S.%fZ}"


def run(exporter: Exporter, *, must_end: Callable[[], bool]) -> None:
    """Export until `must_end`, which waits a while; then until all rankers have ended, and the store has all files."""
    exporter.export()
    while not must_end():
        exporter.export()
    while True:
        is_over = exporter.is_over()  # before the files are listed: what comes last is among them
        if not exporter.export() and is_over:
            return
        time.sleep(LAST_S)


def main() -> None:
    """Export the log that the command line names, until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(
        prog="python -m exfm.serving.exporter",
        description="Upload a ranker's request log to a store. Endpoints and keys come from the environment (AWS_*).",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--folder", type=Path, required=True, metavar="FOLDER", help="the setting request_log.folder of the ranker"
    )
    parser.add_argument(
        "--to", required=True, metavar="URI", help="a folder or s3:// URL; each model gets a folder below it"
    )
    low, high = EVERY_S
    parser.add_argument(
        "--every-s", type=_seconds, default=10, metavar="S",
        help=f"pause between two looks for finished files, in seconds; {low} to {high} (default: 10)",
    )  # fmt: skip
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # they wait, so that they cut off no upload
    logger.info("exporting %s to %s every %d s", arguments.folder, arguments.to, arguments.every_s)
    exporter = Exporter(arguments.folder, arguments.to)
    run(exporter, must_end=lambda: signal.sigtimedwait(ends, arguments.every_s) is not None)
    logger.info("the log has ended, and the store has all of it")


def _seconds(text: str) -> int:
    low, high = EVERY_S
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r}, expected whole seconds, {low} to {high}")
    return int(text)


if __name__ == "__main__":
    main()
