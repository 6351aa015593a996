"""The output folder of a stage: it appears as a whole, or not at all.

A stage fills a local folder. It is renamed to its place, or uploaded with its manifest last.
"""

import glob
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from exfm.artifact.storage import MANIFEST, files_of, read_manifest
from exfm.artifact.stores import is_local, join, reaching, remove_file, reporting, unfinished
from exfm.errors import StorageError


@contextmanager
def writing(uri: str, *, files: Sequence[str]) -> Iterator[Path]:
    """Yield an empty local folder that replaces `uri` when the block ends, and is removed if it fails.

    `files` are those of every folder of its kind, of which the first makes it complete. A local folder that holds
    others is refused, and below a URL others stay as they are.

    Raises: StorageError if `uri` cannot be written, or something else is there.
    """
    target, mark = Path(uri), files[0]
    with reaching(uri):  # a store that nothing here can reach is an error before the work
        if is_local(uri):
            _require_ours(target, files)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
        else:
            scratch = tempfile.TemporaryDirectory(prefix="exfm-")
    with _filled(scratch) as folder:
        yield folder
        with reporting(uri):
            if is_local(uri):
                _swap(folder, target)
            else:
                remove_file(join(uri, mark))  # first: what is left is no finished folder
                _put_files(folder, uri, mark=mark)


@contextmanager
def writing_once(parent: str, *, name: Callable[[Path], str]) -> Iterator[Path]:
    """Yield an empty local folder that appears below `parent` when the block ends, and is removed if it fails.

    `name` returns, for the filled folder with its MANIFEST, its name there: a digest of its content. A finished
    folder of that name stays as it is, byte for byte; one without a manifest, of an upload that was cut off, is
    completed.

    Raises: StorageError if `parent` cannot be written, a folder of that name has another manifest, or a local one
    holds something else.
    """
    with reaching(parent):  # a store that nothing here can reach is an error before the work
        if is_local(parent):
            Path(parent).mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".exfm-", dir=parent if is_local(parent) else None)
    with _filled(scratch) as folder:
        yield folder
        manifest = (folder / MANIFEST).read_bytes()
        uri = join(parent, name(folder))
        with reporting(uri):
            if _has_manifest(uri, manifest):
                return
            if not is_local(uri):
                _put_files(folder, uri, mark=MANIFEST)
                return
            _require_ours(Path(uri), sorted(_names(folder)))
            try:
                _swap(folder, Path(uri))
            except OSError:
                if not _has_manifest(uri, manifest):  # it has: another writer was faster
                    raise


def discard_unfinished(uri: str) -> None:
    """Remove what a killed writer of a local folder or file left: its own scratch, never what was finished.

    Of a model's folder, that of its states, too. A folder that was just being replaced is put back. Below a URL nothing
    is done: what has no manifest there is no finished folder, and is written over.
    """
    if not is_local(uri):
        return
    target = Path(uri)
    for partial in unfinished(target):
        partial.unlink(missing_ok=True)
    suffix = "?" * 8  # mkdtemp's
    scratches = [*target.parent.glob(f".{glob.escape(target.name)}.{suffix}"), *target.glob(f".exfm-{suffix}")]
    for state in target.glob(f"*/.*.{suffix}"):
        shutil.rmtree(state)  # never one that was replaced: a state is written once
    for scratch in scratches:
        old = scratch / "old"
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(scratch)


def remove_folder(uri: str) -> None:
    """Remove a finished folder: from a URL the files that its manifest lists, the manifest first.

    Below a URL others' files stay; a local folder that holds others is refused.

    Raises: StorageError if there is no finished folder, or it cannot be removed.
    """
    files = files_of(read_manifest(uri), source=join(uri, MANIFEST))
    with reaching(uri) as (filesystem, path):
        if is_local(uri):
            target = Path(uri)
            _require_ours(target, (MANIFEST, *files))
            with tempfile.TemporaryDirectory(prefix=".exfm-", dir=target.parent) as scratch:
                target.rename(Path(scratch) / "old")  # at once: no reader meets a half of it
            return
        for name in (MANIFEST, *files):
            if filesystem.exists(f"{path}/{name}"):
                filesystem.rm_file(f"{path}/{name}")


@contextmanager
def _filled(scratch: "tempfile.TemporaryDirectory[str]") -> Iterator[Path]:
    """Yield a new folder in a scratch folder, which is removed when the block ends."""
    with scratch as name:
        folder = Path(name) / "new"
        folder.mkdir()
        yield folder


def _require_ours(target: Path, files: Sequence[str]) -> None:
    """Check that nothing is lost where a folder takes a target's place; hidden files count as nothing."""
    if not target.exists():
        return
    if target.is_file():
        raise StorageError(f"{target} is a file; name a folder")
    others = sorted(name for name in _names(target) - set(files) if not Path(name).name.startswith("."))
    if others:
        raise StorageError(
            f"{target} holds {others[0]!r}, which no stage wrote, and which would be lost; name a folder of its own"
        )


def _swap(folder: Path, target: Path) -> None:
    """Rename a folder to a target; what was there goes into the folder's scratch, or back if that fails."""
    folder.chmod(0o755)  # mkdtemp's is private
    old = folder.parent / "old"
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():  # scratch is removed next: the old output must not go with it
            old.rename(target)
        raise


def _has_manifest(uri: str, manifest: bytes) -> bool:
    """Return whether a finished folder is there.

    Raises: StorageError if its manifest is another one.
    """
    with reaching(join(uri, MANIFEST)) as (filesystem, path):
        if not filesystem.exists(path):
            return False
        found = filesystem.cat_file(path)
    if found != manifest:
        raise StorageError(
            f"{uri}: another {MANIFEST} is there than the one to write; a folder named by its content is never "
            "written again: remove it if nothing uses it"
        )
    return True


def _put_files(folder: Path, uri: str, *, mark: str) -> None:
    with reaching(uri) as (filesystem, path):
        for name in sorted(_names(folder), key=lambda name: (name == mark, name)):  # complete only with its mark
            filesystem.put_file(str(folder / name), f"{path}/{name}")


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
