"""Write each image of an OCI layout to an archive for `ctr images import`, without the layers of those before it.

python3 archive.py LAYOUT OUT_DIR REFERENCE...

Prints `IMAGE <reference> <archive> <digest>` for each, in the order to import in, which is the order of the archives'
names too. An archive that holds its image already is left as it is; other archives go, and what the layout has of
other images.
"""

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

NAME = "org.opencontainers.image.ref.name"


def main() -> None:
    """Write the archives that the command line names."""
    layout, out, references = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    # An image that was replaced stays in the index, without its name.
    named = {item["annotations"][NAME]: item for item in _index(layout) if NAME in item.get("annotations", {})}
    images = [named[reference] for reference in references]
    archives, carried = [], set[str]()
    for number, (reference, image) in enumerate(zip(references, images, strict=True), start=1):
        blobs = _blobs(layout, image)
        archive = out / f"{number}-{reference.rpartition('/')[2].partition(':')[0]}.oci.tar"
        _write(archive, layout, image, [blob for blob in blobs if blob not in carried])
        archives.append(archive)
        carried.update(blobs)
        print("IMAGE", reference, archive, image["digest"])
    for stale in {*out.glob("*.oci.tar")} - {*archives}:
        stale.unlink()
    (layout / "index.json").write_bytes(_index_of(images))
    for blob in (layout / "blobs/sha256").iterdir():
        if f"sha256:{blob.name}" not in carried:
            blob.unlink()


def _index(layout: Path) -> list[dict[str, Any]]:
    manifests: list[dict[str, Any]] = json.loads((layout / "index.json").read_bytes())["manifests"]
    return manifests


def _index_of(images: list[dict[str, Any]]) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": images}).encode()


def _blobs(layout: Path, image: dict[str, Any]) -> list[str]:
    manifest = json.loads(_path(layout, image["digest"]).read_bytes())
    return [image["digest"], manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]


def _path(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _write(archive: Path, layout: Path, image: dict[str, Any], blobs: list[str]) -> None:
    members = ["oci-layout", "index.json", *(f"blobs/{blob.replace(':', '/')}" for blob in blobs)]
    if archive.exists():
        with tarfile.open(archive) as tar:
            if tar.getnames() == members:
                return
    unfinished = archive.with_suffix(".new")
    with tarfile.open(unfinished, "w") as tar:
        for name, content in zip(members, (b'{"imageLayoutVersion": "1.0.0"}', _index_of([image])), strict=False):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name in members[2:]:
            tar.add(layout / name, arcname=name, recursive=False)
    unfinished.rename(archive)


if __name__ == "__main__":
    main()
