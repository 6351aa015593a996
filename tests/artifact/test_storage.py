import json
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from exfm.artifact.digests import FileDigest, digests_of_folder, verify_folder
from exfm.artifact.output import discard_unfinished, remove_folder, writing, writing_once
from exfm.artifact.storage import MANIFEST, Ref, reading, ref_to
from exfm.artifact.stores import is_local, join, list_folders, modified_s, read_file, remove_file, write_file
from exfm.errors import ConfigError, StorageError

FILES = {"data.bin": b"\x00\x01", "deep/er/data.txt": b"text", "a file with spaces": b""}
CHANGED = FILES | {"data.bin": b"changed"}
KIND = (MANIFEST, *FILES)
"""Files of a folder with FILES, of which the first makes it complete."""


class CrashError(Exception):
    """What goes wrong in a stage."""


@pytest.fixture(params=["folder", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a root of a store: a local folder, and a remote one."""
    return str(tmp_path / "root") if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a root of a store as runs have it: a local folder, and a prefix in S3."""
    return str(tmp_path / "root") if request.param == "folder" else join(request.getfixturevalue("bucket"), "root")


def fill(folder: Path, files: dict[str, bytes]) -> None:
    """Write files, and the manifest that lists them."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    listed = {name: digest.to_dict() for name, digest in digests_of_folder(folder).items()}
    (folder / MANIFEST).write_text(json.dumps({"files": listed}))


def fill_and_crash(folder: Path, files: dict[str, bytes]) -> None:
    fill(folder, files)
    raise CrashError


def put(uri: str, files: dict[str, bytes] = FILES) -> Ref:
    with writing(uri, files=(MANIFEST, *files)) as folder:
        fill(folder, files)
    return ref_to(uri)


def put_once(parent: str, files: dict[str, bytes] = FILES, *, called: str = "4f0c") -> Ref:
    with writing_once(parent, name=lambda folder: called) as folder:
        fill(folder, files)
    return ref_to(join(parent, called))


def content_of(folder: Path) -> dict[str, bytes]:
    """Return a folder's files but its manifest."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_what_was_written_is_read(root: str) -> None:
    ref = put(join(root, "stage", "out"))
    with reading(ref) as folder:
        assert content_of(folder) == FILES


def test_writing_replaces_the_folder_as_a_whole(root: str) -> None:
    uri = join(root, "out")
    put(uri)
    with reading(put(uri, CHANGED)) as folder:
        assert content_of(folder) == CHANGED


def test_what_somebody_else_keeps_below_a_url_stays_and_is_not_copied() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    kept = {"others.txt": b"theirs", "deep/others.txt": b"theirs, too"}
    for name, content in kept.items():
        write_file(join(root, name), content)
    put(root)  # of a whole store, such as s3://bucket
    ref = put(root, CHANGED)
    assert {name: read_file(join(root, name)) for name in kept} == kept
    with reading(ref) as folder:
        assert content_of(folder) == CHANGED


def test_a_local_folder_that_holds_something_else_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds 'thesis\.txt', which no stage wrote, and which would be lost"):
        put(str(tmp_path))
    with pytest.raises(StorageError, match=r"thesis\.txt is a file; name a folder"):
        put(str(tmp_path / "thesis.txt"))
    assert content_of(tmp_path) == {"thesis.txt": b"mine"}
    put(str(tmp_path / "out"))
    (tmp_path / "out" / "deep" / "notes.txt").write_text("mine, too")
    with pytest.raises(StorageError, match=r"holds 'deep/notes\.txt', which no stage wrote"):
        put(str(tmp_path / "out"))
    assert content_of(tmp_path / "out") == {**FILES, "deep/notes.txt": b"mine, too"}


def test_a_hidden_file_hinders_nobody(tmp_path: Path) -> None:
    put(str(tmp_path / "out"))
    (tmp_path / "out" / ".DS_Store").write_text("a desktop's")
    put(str(tmp_path / "out"))
    assert content_of(tmp_path / "out") == FILES


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    put(str(tmp_path / "out"))
    assert content_of(tmp_path / "out") == FILES


def test_a_folder_of_another_kind_is_known_by_the_file_that_it_holds(root: str) -> None:
    uri = join(root, "counted")
    for content in (b"1", b"2"):
        with writing(uri, files=("mark.json", "data")) as folder:
            (folder / "mark.json").write_bytes(content)
            (folder / "data").write_bytes(content)
        assert read_file(join(uri, "mark.json")) == read_file(join(uri, "data")) == content


NO_MANIFESTS = [
    (b"{", r"manifest\.json: not JSON: .*; no stage wrote this: name another folder"),
    (b"[1]", r"manifest\.json: \(top level\): expected settings, each as `key: value`"),
    (b'{"name": "a web app"}', r"manifest\.json: files: missing; set it; no stage wrote this"),
    (
        b'{"files": [{"name": "requests-00000.safetensors"}]}',
        r"files: expected settings, each as `key: value`",
    ),  # a trace's
    (b'{"files": {"../others.txt": {"sha256": "%s", "size_bytes": 1}}}' % (b"0" * 64), "lies outside the folder"),
]


@pytest.mark.parametrize(("manifest", "message"), NO_MANIFESTS)
def test_a_folder_whose_manifest_is_no_stages_is_not_read(root: str, manifest: bytes, message: str) -> None:
    uri = join(root, "out")
    write_file(join(uri, MANIFEST), manifest)
    with pytest.raises(StorageError, match=message), reading(ref_to(uri)):
        pass


def test_after_an_upload_that_was_killed_another_leaves_a_whole_folder() -> None:
    uri = f"memory://{uuid.uuid4().hex}/out"
    put(uri)
    remove_file(join(uri, MANIFEST))
    write_file(join(uri, "half"), b"1")
    with reading(put(uri, CHANGED)) as folder:
        assert content_of(folder) == CHANGED


def test_a_file_of_before_that_somebody_removed_hinders_nobody() -> None:
    uri = f"memory://{uuid.uuid4().hex}/out"
    put(uri)
    remove_file(join(uri, "data.bin"))
    with reading(put(uri, CHANGED)) as folder:
        assert content_of(folder) == CHANGED


@pytest.mark.parametrize("uri", ["pvc://claim/out", "nowhere://out"])
def test_a_store_that_nothing_here_can_reach_is_named(uri: str) -> None:
    uses: tuple[Callable[[str], object], ...] = (ref_to, read_file, remove_file, put)
    for use in uses:
        with pytest.raises(StorageError, match=rf"^{uri}.*: Protocol not known: .*; name a folder or an s3:// URL"):
            use(uri)


def test_writing_starts_from_an_empty_folder(root: str) -> None:
    uri = join(root, "out")
    put(uri)
    with writing(uri, files=KIND) as folder:
        assert list(folder.iterdir()) == []
        fill(folder, FILES)


def test_a_failure_leaves_nothing(root: str) -> None:
    uri = join(root, "out")
    with pytest.raises(CrashError), writing(uri, files=KIND) as folder:
        fill_and_crash(folder, FILES)
    with pytest.raises(StorageError, match=r"out: no manifest\.json there; run the stage that writes it"):
        ref_to(uri)
    assert not folder.parent.exists()
    if is_local(uri):
        assert list(Path(root).iterdir()) == []


def test_a_failure_keeps_the_old_folder(root: str) -> None:
    uri = join(root, "out")
    ref = put(uri)
    with pytest.raises(CrashError), writing(uri, files=KIND) as folder:
        fill_and_crash(folder, {"half": b""})
    with reading(ref) as kept:
        assert content_of(kept) == FILES


def test_the_old_folder_is_there_until_the_block_ends(root: str) -> None:
    uri = join(root, "out")
    ref = put(uri)
    with writing(uri, files=KIND) as folder:
        fill(folder, CHANGED)
        with reading(ref) as old:
            assert content_of(old) == FILES


def test_nothing_but_the_folder_is_left_beside_it(tmp_path: Path) -> None:
    put(str(tmp_path / "out"))
    put(str(tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_written_folder_may_be_entered_by_others(tmp_path: Path) -> None:
    put(str(tmp_path / "out"))
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o755


def test_what_a_killed_writer_left_is_removed_and_what_it_was_replacing_is_back(tmp_path: Path) -> None:
    ref = put(str(tmp_path / "out"))
    put(str(tmp_path / "other"))
    program = f"""
import os, signal
from pathlib import Path
from exfm.artifact.output import writing, writing_once

with writing("{tmp_path}/out", files={KIND}) as folder, writing_once("{tmp_path}/named", name=lambda folder: "one"):
    (folder / "half").write_text("half")
    Path("{tmp_path}/.file.0f1e2d3c.partial").write_text("half")
    Path("{tmp_path}/out").rename(folder.parent / "old")  # as in the moment between the two renames
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "out").exists()
    before = sorted(tmp_path.rglob(".*"))
    assert len(before) == 3
    for name in ("other", "nothing"):
        discard_unfinished(str(tmp_path / name))
    assert sorted(tmp_path.rglob(".*")) == before, "what is another's stays"
    for name in ("out", "named", "file"):
        discard_unfinished(str(tmp_path / name))
    assert not list(tmp_path.rglob(".*"))
    with reading(ref) as kept:
        assert content_of(kept) == FILES


def test_reading_a_folder_with_another_manifest_is_refused(root: str) -> None:
    uri = join(root, "out")
    old = put(uri)
    new = put(uri, CHANGED)
    with pytest.raises(StorageError) as raised, reading(old):
        pass
    assert uri in str(raised.value)
    assert old.digest in str(raised.value)
    assert new.digest in str(raised.value)


def test_reading_a_missing_folder_is_refused(root: str) -> None:
    ref = Ref(uri=join(root, "gone"), digest="0" * 64)
    with pytest.raises(StorageError, match=r"gone: no manifest\.json there"), reading(ref):
        pass


def test_reading_an_unfinished_folder_is_refused(root: str) -> None:
    write_file(join(root, "out", "data.bin"), b"1")
    with (
        pytest.raises(StorageError, match=r"out: no manifest\.json there"),
        reading(Ref(uri=join(root, "out"), digest="0" * 64)),
    ):
        pass


def test_the_same_manifest_has_the_same_reference_anywhere(tmp_path: Path) -> None:
    local, remote = put(str(tmp_path / "out")), put(f"memory://{uuid.uuid4().hex}/out")
    assert local.digest == remote.digest


def test_a_copy_of_a_remote_folder_vanishes_after_use() -> None:
    with reading(put(f"memory://{uuid.uuid4().hex}/out")) as folder:
        assert folder.exists()
    assert not folder.exists()


class FullStore(MemoryFileSystem):  # type: ignore[misc]
    """A remote store that has room for three files only."""

    protocol = "full"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    def put_file(self, lpath: str, rpath: str, **kwargs: object) -> None:
        if len(self.store) == 3:
            raise CrashError(f"no room for {rpath}")
        super().put_file(lpath, rpath, **kwargs)


def test_the_manifest_is_uploaded_last() -> None:
    fsspec.register_implementation("full", FullStore, clobber=True)
    with pytest.raises(CrashError, match=r"no room for .*/manifest\.json"), writing("full://out", files=KIND) as folder:
        fill(folder, FILES)
    with pytest.raises(StorageError, match=r"no manifest\.json there"):
        ref_to("full://out")
    assert not folder.exists()


@pytest.mark.parametrize("uri", ["a/b/c.txt", "memory"])
def test_a_file_is_written_whole(uri: str, tmp_path: Path) -> None:
    target = f"memory://{uuid.uuid4().hex}/a/b" if uri == "memory" else str(tmp_path / uri)
    for content in (b"old and long", b"new"):
        write_file(target, content)
        assert read_file(target) == content


def test_writing_a_file_leaves_no_partial_file(tmp_path: Path) -> None:
    write_file(str(tmp_path / "out" / "report.html"), b"1")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_what_a_killed_writer_of_a_file_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / ".report.html.0f1e2d3c.partial").write_bytes(b"ha")
    (tmp_path / ".other.html.0f1e2d3c.partial").write_bytes(b"ha")
    write_file(str(tmp_path / "report.html"), b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.html.0f1e2d3c.partial", "report.html"]


def test_of_several_writers_of_one_file_each_reader_meets_one_content(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    contents = [bytes([number]) * 8_000_000 for number in range(4)]
    with ThreadPoolExecutor(len(contents)) as pool:
        for _ in range(10):
            writers = [pool.submit(write_file, str(target), content) for content in contents]
            while not all(writer.done() for writer in writers):
                assert not target.exists() or target.read_bytes() in contents
            assert [writer.result() for writer in writers] == [None] * len(contents)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_file_is_named(root: str) -> None:
    with pytest.raises(StorageError, match="gone: no such file; run the stage that writes it"):
        read_file(join(root, "gone"))


@pytest.mark.parametrize(("uri", "local"), [("/a", True), ("a/b", True), ("s3://b/c", False), ("memory://x", False)])
def test_a_uri_with_a_scheme_is_remote(uri: str, local: bool) -> None:
    assert is_local(uri) is local


@pytest.mark.parametrize(("uri", "joined"), [("/a", "/a/b/c"), ("/a/", "/a/b/c"), ("s3://x/y/", "s3://x/y/b/c")])
def test_parts_are_joined_with_one_slash(uri: str, joined: str) -> None:
    assert join(uri, "b", "c") == joined


@pytest.mark.parametrize("digest", ["", "0" * 63, "A" * 64])
def test_a_reference_without_a_digest_is_refused(digest: str) -> None:
    with pytest.raises(ConfigError, match="digest"):
        Ref.parse({"uri": "a", "digest": digest}, source="x")


@pytest.mark.slow
def test_an_s3_bucket_is_a_root(bucket: str) -> None:
    uri = join(bucket, "run", "out")
    put(uri)
    with reading(put(uri, CHANGED)) as folder:
        assert content_of(folder) == CHANGED
    write_file(join(bucket, "run", "report.html"), b"1")
    assert read_file(join(bucket, "run", "report.html")) == b"1"
    with pytest.raises(StorageError, match="no such file"):
        read_file(join(bucket, "run", "gone"))
    with pytest.raises(StorageError, match=r"no manifest\.json there"):
        ref_to(join(bucket, "run", "gone"))


def test_a_file_that_this_user_may_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/mem")
    with pytest.raises(StorageError, match=r"link cannot be read \(Input/output error\)"):
        verify_folder(tmp_path, {"link": FileDigest(sha256="0" * 64, size_bytes=0)})


def test_a_folder_appears_under_the_name_that_its_content_gives(store: str) -> None:
    seen: list[dict[str, bytes]] = []

    def name(folder: Path) -> str:
        seen.append(content_of(folder))
        return ref_to(str(folder)).digest

    with writing_once(store, name=name) as folder:
        assert list(folder.iterdir()) == []
        fill(folder, FILES)
        digest = name(folder)
        assert list_folders(store) == []
    assert seen == [FILES, FILES]
    assert list_folders(store) == [digest]
    with reading(Ref(uri=join(store, digest), digest=digest)) as there:
        assert content_of(there) == FILES
    assert not folder.exists()


def test_a_finished_folder_is_not_written_again(store: str) -> None:
    ref = put_once(store)
    write_file(join(ref.uri, "data.bin"), b"changed")  # which tells whether it is written again
    assert put_once(store) == ref
    assert read_file(join(ref.uri, "data.bin")) == b"changed"
    assert list_folders(store) == ["4f0c"]


def test_a_finished_folder_with_another_manifest_is_refused_and_stays(store: str) -> None:
    ref = put_once(store)
    with pytest.raises(StorageError, match=r"4f0c: another manifest\.json is there than the one to write"):
        put_once(store, {"data.bin": b"other"})
    with reading(ref) as folder:
        assert content_of(folder) == FILES


def test_an_upload_that_was_cut_off_is_completed(store: str) -> None:
    write_file(join(store, "4f0c", "data.bin"), b"\x00")
    with reading(put_once(store)) as folder:
        assert content_of(folder) == FILES


def test_a_local_folder_of_others_is_not_completed(tmp_path: Path) -> None:
    (tmp_path / "4f0c").mkdir()
    (tmp_path / "4f0c" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"4f0c holds 'thesis\.txt', which no stage wrote"):
        put_once(str(tmp_path))
    assert content_of(tmp_path) == {"4f0c/thesis.txt": b"mine"}


def test_a_failure_leaves_no_folder_named_by_its_content(store: str) -> None:
    with pytest.raises(CrashError), writing_once(store, name=lambda folder: "4f0c") as folder:
        fill_and_crash(folder, FILES)
    assert not folder.parent.exists()
    assert list_folders(store) == []
    if is_local(store):
        assert list(Path(store).iterdir()) == []


def test_of_two_writers_of_the_same_content_one_leaves_the_others_folder(store: str) -> None:
    with writing_once(store, name=lambda folder: "4f0c") as folder:
        fill(folder, FILES)
        ref = put_once(store)
        write_file(join(ref.uri, "data.bin"), b"changed")
    assert ref_to(ref.uri) == ref
    assert read_file(join(ref.uri, "data.bin")) == b"changed"


def test_a_folder_named_by_its_content_may_be_entered_by_others(tmp_path: Path) -> None:
    put_once(str(tmp_path))
    assert (tmp_path / "4f0c").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["4f0c"]


def test_folders_are_listed_without_what_lies_deeper_or_is_hidden_or_no_folder(store: str) -> None:
    assert list_folders(join(store, "bundle")) == []
    for name in ("b/manifest.json", "a/deep/er/data.bin", ".hidden/data.bin", "latest.json"):
        write_file(join(store, "bundle", name), b"1")
    assert list_folders(join(store, "bundle")) == ["a", "b"]
    assert list_folders(join(store, "bundle") + "/") == ["a", "b"]
    assert list_folders(join(store, "bundle", "a", "deep")) == ["er"]
    assert list_folders(join(store, "bundle", "b")) == []
    assert list_folders(join(store, "bundle", "latest.json")) == []


def test_a_removed_folder_is_gone_and_its_neighbours_stay(store: str) -> None:
    kept = put(join(store, "kept"))
    put(join(store, "gone"))
    remove_folder(join(store, "gone"))
    assert list_folders(store) == ["kept"]
    assert ref_to(kept.uri) == kept


def test_others_files_below_a_url_stay_when_a_folder_is_removed() -> None:
    root = f"memory://{uuid.uuid4().hex}"
    put(root)
    write_file(join(root, "deep", "others.txt"), b"theirs")
    remove_folder(root)
    filesystem, path = fsspec.core.url_to_fs(root)
    assert filesystem.find(path) == [f"{path}/deep/others.txt"]


def test_a_local_folder_with_others_files_is_not_removed(tmp_path: Path) -> None:
    put(str(tmp_path / "out"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"holds 'notes\.txt', which no stage wrote"):
        remove_folder(str(tmp_path / "out"))
    assert content_of(tmp_path / "out") == FILES | {"notes.txt": b"mine"}


@pytest.mark.parametrize(("manifest", "message"), NO_MANIFESTS)
def test_a_folder_whose_manifest_is_no_stages_is_not_removed(root: str, manifest: bytes, message: str) -> None:
    write_file(join(root, "out", MANIFEST), manifest)
    with pytest.raises(StorageError, match=message):
        remove_folder(join(root, "out"))
    assert read_file(join(root, "out", MANIFEST)) == manifest


def test_what_is_no_finished_folder_is_not_removed(root: str) -> None:
    write_file(join(root, "out", "data.bin"), b"1")
    for name in ("out", "nowhere"):
        with pytest.raises(StorageError, match=rf"{name}: no manifest\.json there"):
            remove_folder(join(root, name))
    assert read_file(join(root, "out", "data.bin")) == b"1"


def test_the_time_of_a_file_is_told(store: str) -> None:
    write_file(join(store, "latest.json"), b"1")
    assert modified_s(join(store, "latest.json")) == pytest.approx(time.time(), abs=60)
    with pytest.raises(StorageError, match="gone: no such file"):
        modified_s(join(store, "gone"))
