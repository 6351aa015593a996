import json
from pathlib import Path

import pytest

from exfm.artifact.digests import digests_of_folder
from exfm.artifact.manifest import Manifest, Window, read_json, write_json
from exfm.artifact.storage import MANIFEST, reading, ref_to
from exfm.errors import ConfigError, StorageError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two files with their manifest."""
    (tmp_path / "window=00001").mkdir()
    (tmp_path / "window=00001" / "part.parquet").write_bytes(b"rows")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    manifest = Manifest(
        kind="foundation",
        windows=(Window(index=1, start=-5, end=5), Window(index=2, start=5, end=6)),
        files=digests_of_folder(tmp_path),
    )
    write_json(tmp_path / MANIFEST, manifest.to_dict())
    return tmp_path


def read_checked(folder: Path) -> None:
    with reading(ref_to(str(folder))):
        pass


def test_what_was_written_is_read(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert manifest.kind == "foundation"
    assert manifest.windows[0] == Window(index=1, start=-5, end=5)


@pytest.mark.parametrize("content", [b"weightS", b"weight", b""])
def test_a_damaged_file_is_named(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(StorageError) as raised:
        read_checked(folder)
    assert f"{folder}: model.safetensors is damaged: expected 7 B with SHA-256" in str(raised.value)
    assert f"found {len(content)} B" in str(raised.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "window=00001" / "part.parquet").unlink()
    with pytest.raises(StorageError, match=r"window=00001/part\.parquet is missing"):
        read_checked(folder)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"manifest\.json: cannot be read \(No such file or directory\)"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"kind: foundation"])
def test_a_manifest_that_is_not_json_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(StorageError, match=r"manifest\.json: not JSON"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, r"format_version: expected 1 \(found 2\)"),
        ({"owner": "me"}, r"owner: no such setting"),
        ({"windows": [{"index": 0, "start": 3, "end": 3}]}, r"window 0 ends at 3, which is not after its start 3"),
        ({"files": {"a": {"sha256": "x", "size_bytes": -1}}}, r"files\.a\.sha256.*files\.a\.size_bytes"),
    ],
)
def test_a_malformed_manifest_is_a_storage_error(change: dict[str, object], message: str, folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match=message) as raised:
        Manifest.read(folder)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_window_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(ConfigError, match="window 7 ends at 1, which is not after its start 2"):
        Window.parse({"index": 7, "start": 2, "end": 1}, source="x")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_json_has_no_word_for_a_number_that_is_not_finite(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"auc": [number]})
    assert not (tmp_path / "a.json").exists()


def test_json_that_was_written_is_read(tmp_path: Path) -> None:
    value = {"text": "ä\u2028\x85\x7f😀\t", "numbers": [1e-05, 2**63, -0.5], "none": None, "yes": True}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
