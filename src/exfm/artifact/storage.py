"""A store of stage outputs: folders under a root that is a local path or any fsspec URL, such as s3://bucket/prefix.

A stage writes into a local folder that becomes visible as a whole, or not at all; it reads local folders. For a
remote root the folder is uploaded with its manifest last, or downloaded, so no stage knows where its files live.
"""

import glob
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, StringConstraints, model_validator

from exfm.artifact.digests import FileDigest, Sha256, verify_folder
from exfm.artifact.stores import entries, filesystem_of, telling
from exfm.config import Config
from exfm.errors import ConfigError, StorageError

MANIFEST = "manifest.json"
"""The file whose presence makes a folder complete: written last, and digested by whoever refers to the folder."""


class Ref(Config):
    """A finished folder: where it is and what its manifest must be."""

    uri: Annotated[str, StringConstraints(min_length=1)]
    digest: Sha256
    """SHA-256 of the folder's manifest.json, which holds the digests of all its files."""


def is_local(uri: str) -> bool:
    """Return whether a URI is a path on this machine."""
    return re.match(r"[a-z][a-z0-9+.-]*:/", uri) is None


def remove_file(uri: str) -> None:
    """Remove one file, if it is there.

    Raises: StorageError if it cannot be removed, or nobody can tell whether it is there.
    """
    with telling(uri):
        if is_local(uri):
            Path(uri).unlink(missing_ok=True)
            return
        filesystem, path = filesystem_of(uri)
        if filesystem.exists(path):
            filesystem.rm_file(path)


def resolve_path(uri: str, *, base: Path) -> str:
    """Return a URI as it is, or a local path made absolute; a relative one starts at `base`."""
    return str((base / uri).resolve()) if is_local(uri) else uri


def join(uri: str, *parts: str) -> str:
    """Return a URI below another one."""
    return "/".join([uri.rstrip("/"), *parts])


@contextmanager
def writing(uri: str, *, files: Sequence[str] = ()) -> Iterator[Path]:
    """Yield an empty local folder that takes the place of `uri` when the block ends, and vanishes if it fails.

    `files` are those of every folder of its kind, of which the first makes it complete; none: MANIFEST, and those that
    it lists. A local folder that holds others is refused, and below a URL others stay as they are.

    Raises: StorageError if `uri` cannot be written, or something else is there.
    """
    with telling(uri):
        if is_local(uri):
            target = Path(uri)
            _require_ours(target, files)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        else:
            _uploaded(uri, files)  # what is nobody's to replace is told before the work
            scratch = Path(tempfile.mkdtemp(prefix="exfm-"))
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        with telling(uri):
            if is_local(uri):
                _swap(folder, target, scratch)
            else:
                _upload(folder, uri, files=files)
    finally:
        shutil.rmtree(scratch)


@contextmanager
def writing_once(parent: str, *, name: Callable[[Path], str]) -> Iterator[Path]:
    """Yield an empty local folder that appears below `parent` when the block ends, and vanishes if the block fails.

    `name` tells, of the filled folder with its MANIFEST, what it is called there: a digest of its content. A finished
    folder of that name stays as it is, byte for byte; one without a manifest, of an upload that was cut off, is
    completed.

    Raises: StorageError if `parent` cannot be written, a folder of that name has another manifest, or a local one
    holds something else.
    """
    with telling(parent):
        if is_local(parent):
            Path(parent).mkdir(parents=True, exist_ok=True)
        else:
            filesystem_of(parent)  # a store that nothing here can reach is told before the work
        scratch = Path(tempfile.mkdtemp(prefix=".exfm-", dir=parent if is_local(parent) else None))
    try:
        folder = scratch / "new"
        folder.mkdir()
        yield folder
        manifest = (folder / MANIFEST).read_bytes()
        uri = join(parent, name(folder))
        with telling(uri):
            if _has_manifest(uri, manifest):
                return
            if is_local(uri):
                _place(folder, Path(uri), scratch)
            else:
                _put_files(folder, uri, mark=MANIFEST)
    finally:
        shutil.rmtree(scratch)


def discard_unfinished(uri: str) -> None:
    """Remove what a writer of a local folder or file left that was killed: its own scratch, never what was finished.

    A folder that was just being replaced is put back. Below a URL nothing is done: what has no manifest there is no
    finished folder, and is written over.
    """
    if not is_local(uri):
        return
    target = Path(uri)
    target.with_name(f".{target.name}.partial").unlink(missing_ok=True)
    suffix = "?" * 8  # mkdtemp's
    scratches = [*target.parent.glob(f".{glob.escape(target.name)}.{suffix}"), *target.glob(f".exfm-{suffix}")]
    for scratch in scratches:
        old = scratch / "old"
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(scratch)


@contextmanager
def reading(ref: Ref) -> Iterator[Path]:
    """Yield a local folder with the files of `ref`, each checked against its digest.

    Of a remote folder those files are copied that its manifest lists, and no others. Hashing costs about a second a GB;
    it is what makes a reference mean one content.

    Raises: StorageError if it is missing, its manifest is another one than `ref` says, or a file is damaged.
    """
    manifest = _read_manifest(ref.uri)
    found = hashlib.sha256(manifest).hexdigest()
    if found != ref.digest:
        raise StorageError(
            f"{ref.uri}: {MANIFEST} has SHA-256 {found}, expected {ref.digest}; "
            "the folder was written again since: run the stages after it again"
        )
    files = _files_of(manifest, source=join(ref.uri, MANIFEST))
    if is_local(ref.uri):
        folder = Path(ref.uri)
        verify_folder(folder, files)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="exfm-") as scratch:
        folder = Path(scratch) / "copy"
        folder.mkdir()
        (folder / MANIFEST).write_bytes(manifest)
        with telling(ref.uri):
            filesystem, path = filesystem_of(ref.uri)
            filesystem.get([f"{path}/{name}" for name in files], [str(folder / name) for name in files])
        verify_folder(folder, files)
        yield folder


def ref_to(uri: str) -> Ref:
    """Return the reference to a finished folder.

    Raises: StorageError if there is none.
    """
    return Ref(uri=uri, digest=hashlib.sha256(_read_manifest(uri)).hexdigest())


def write_file(uri: str, content: bytes) -> None:
    """Put one file at `uri`, whole.

    Raises: StorageError if it cannot be written.
    """
    with telling(uri):
        if is_local(uri):
            target = Path(uri)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            partial.write_bytes(content)
            partial.replace(target)
        else:
            filesystem, path = filesystem_of(uri)
            filesystem.pipe_file(path, content)


def read_file(uri: str) -> bytes:
    """Return the content of one file.

    Raises: StorageError if there is none, or it cannot be read.
    """
    with telling(uri):
        filesystem, path = filesystem_of(uri)
        content: bytes = filesystem.cat_file(path)
    return content


def exists(uri: str) -> bool:
    """Return whether there is a file or folder.

    Raises: StorageError if nobody can tell.
    """
    with telling(uri):
        filesystem, path = filesystem_of(uri)
        return bool(filesystem.exists(path))


def modified_s(uri: str) -> float:
    """Return when a file was written last, as Unix time.

    Raises: StorageError if there is none, or nobody can tell.
    """
    with telling(uri):
        filesystem, path = filesystem_of(uri)
        written: datetime = filesystem.modified(path)
    return written.timestamp()


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders directly below a URI, sorted, without hidden ones; none if it is not there.

    Raises: StorageError if nobody can tell.
    """
    names = {item["name"] for item in entries(uri) if item["type"] == "directory"}
    return sorted(name for name in names if not name.startswith("."))


def remove_folder(uri: str) -> None:
    """Remove a finished folder: from a URL the files that its manifest lists, the manifest first.

    Below a URL others' files stay; a local folder that holds others is refused.

    Raises: StorageError if there is no finished folder, or it cannot be removed.
    """
    files = _files_of(_read_manifest(uri), source=join(uri, MANIFEST))
    with telling(uri):
        if is_local(uri):
            target = Path(uri)
            _require_ours(target, ())
            scratch = Path(tempfile.mkdtemp(prefix=".exfm-", dir=target.parent))
            target.rename(scratch / "old")  # at once: no reader meets a half of it
            shutil.rmtree(scratch)
            return
        filesystem, path = filesystem_of(uri)
        for name in (MANIFEST, *files):
            if filesystem.exists(f"{path}/{name}"):
                filesystem.rm_file(f"{path}/{name}")


class _Listing(Config):
    """What the manifests of all stages and bundles have."""

    model_config = ConfigDict(extra="ignore")

    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _check(self) -> Self:
        outside = [name for name in self.files if name.startswith("/") or ".." in name.split("/")]
        if outside:
            raise ValueError(f"file {outside[0]!r} lies outside the folder")
        return self


def _files_of(manifest: bytes, *, source: str) -> dict[str, FileDigest]:
    """Return the files that a manifest lists; `source` names it in errors.

    Raises: StorageError if it is that of no stage and no bundle.
    """
    try:
        return _Listing.parse(json.loads(manifest), source=source).files
    except ConfigError as error:
        raise StorageError(f"{error}; no stage wrote this: name another folder") from error
    except ValueError as error:
        raise StorageError(f"{source}: not JSON: {error}; no stage wrote this: name another folder") from error


def _read_manifest(uri: str) -> bytes:
    with telling(uri):
        filesystem, path = filesystem_of(join(uri, MANIFEST))
        if not filesystem.exists(path):
            raise StorageError(f"{uri}: no {MANIFEST} there; run the stage that writes it")
        manifest: bytes = filesystem.cat_file(path)
    return manifest


def _require_ours(target: Path, files: Sequence[str]) -> None:
    """Check that nothing is lost where a folder takes a target's place; hidden files count as nothing."""
    if not target.exists():
        return
    if target.is_file():
        raise StorageError(f"{target} is a file; name a folder")
    names = _names(target)
    ours = set(files)
    if not files and MANIFEST in names:
        ours = {MANIFEST, *_files_of((target / MANIFEST).read_bytes(), source=str(target / MANIFEST))}
    others = sorted(name for name in names - ours if not Path(name).name.startswith("."))
    if others:
        raise StorageError(
            f"{target} holds {others[0]!r}, which no stage wrote, and which would be lost; name a folder of its own"
        )


def _swap(folder: Path, target: Path, scratch: Path) -> None:
    folder.chmod(0o755)  # mkdtemp's is private
    old = scratch / "old"
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():  # scratch is removed next: the old output must not go with it
            old.rename(target)
        raise


def _place(folder: Path, target: Path, scratch: Path) -> None:
    """Rename a folder to a target that no other writer has finished."""
    manifest = (folder / MANIFEST).read_bytes()
    _require_ours(target, sorted(_names(folder)))
    folder.chmod(0o755)  # mkdtemp's is private
    if target.exists():
        target.rename(scratch / "old")
    try:
        folder.rename(target)
    except OSError:
        if not _has_manifest(str(target), manifest):  # it has: another writer was faster
            raise


def _has_manifest(uri: str, manifest: bytes) -> bool:
    """Return whether a finished folder is there.

    Raises: StorageError if its manifest is another one.
    """
    filesystem, path = filesystem_of(join(uri, MANIFEST))
    if not filesystem.exists(path):
        return False
    if filesystem.cat_file(path) != manifest:
        raise StorageError(
            f"{uri}: another {MANIFEST} is there than the one to write; a folder named by its content is never "
            "written again: remove it if nothing uses it"
        )
    return True


def _upload(folder: Path, uri: str, *, files: Sequence[str]) -> None:
    """Put a folder's files where those of before go, and nothing else: below a URL may be others' files, too."""
    before, mark = _uploaded(uri, files), _mark(files)
    filesystem, path = filesystem_of(uri)
    if before:
        filesystem.rm_file(f"{path}/{mark}")  # first: what is left is no finished folder
    _put_files(folder, uri, mark=mark)
    for name in sorted(before - _names(folder)):
        if filesystem.exists(f"{path}/{name}"):
            filesystem.rm_file(f"{path}/{name}")


def _put_files(folder: Path, uri: str, *, mark: str) -> None:
    filesystem, path = filesystem_of(uri)
    for name in sorted(_names(folder), key=lambda name: (name == mark, name)):  # until its mark is there none is
        filesystem.put_file(str(folder / name), f"{path}/{name}")


def _names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def _uploaded(uri: str, files: Sequence[str]) -> set[str]:
    """Return the names of the files of a finished folder, of which its manifest tells; none if there is no such folder.

    Raises: StorageError if the manifest there is that of no stage.
    """
    place = join(uri, _mark(files))
    filesystem, path = filesystem_of(place)
    if not filesystem.exists(path):
        return set()
    return set(files) or {MANIFEST, *_files_of(filesystem.cat_file(path), source=place)}


def _mark(files: Sequence[str]) -> str:
    return files[0] if files else MANIFEST
