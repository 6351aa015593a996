"""Images without a registry: OCI archives in the cache, imported into containerd where it lacks their digest."""

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.configuration import PAUSE_IMAGE
from rig.errors import RigError
from rig.layout import Layout
from rig.progress import step
from rig.sandbox import inside

BUILDER = Path(__file__).parent.parent / "images" / "build.sh"
CTR = ("ctr", "--namespace", "k8s.io")


@dataclass(frozen=True)
class Image:
    """An image in an OCI archive."""

    name: str
    archive: Path
    digest: str


def build_images(layout: Layout) -> list[Image]:
    """Have tests/cluster/images/build.sh make the project's archives; return its images in the order to import in.

    It runs in a mount namespace of its own: killed, it leaves no mount behind.
    """
    log = layout.logs / "images.log"
    with step(f"images by {BUILDER.name}"), log.open("w") as output:
        builder = subprocess.Popen(
            ["unshare", "--mount", "bash", str(BUILDER), str(layout.images)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=output, text=True,
        )  # fmt: skip
        printed, _ = builder.communicate()
    if builder.returncode != 0:
        last = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        raise RigError(f"{BUILDER.name} failed: {last} ({log})")
    return built_images(printed)


def built_images(printed: str) -> list[Image]:
    """Return the images that build.sh tells of: `IMAGE <name> <archive> <digest>`."""
    rows = [line.split(" ")[1:] for line in printed.splitlines() if line.startswith("IMAGE ")]
    return [Image(name, Path(archive), digest) for name, archive, digest in rows]


def import_images(layout: Layout, found: list[Image]) -> None:
    """Import, in order, every image that containerd does not have with the same digest."""
    lines = inside(layout, *CTR, "images", "list").splitlines()[1:]
    present = {(line.split()[0], line.split()[2]) for line in lines}
    for image in found:
        if (image.name, image.digest) not in present:
            with step(f"import {image.name}, {image.archive.stat().st_size / 2**20:.0f} MiB"):
                inside(layout, *CTR, "images", "import", str(image.archive))


def pause_image(archive: Path, pause: Path) -> Image:
    """Write an OCI archive with one file in it; return its image, whose digest depends on that file alone."""
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {
            "mediaType": f"application/vnd.oci.image.{media_type}",
            "digest": f"sha256:{digest}",
            "size": len(content),
        }

    layer = _tar({"pause": pause.read_bytes()}, mode=0o755)
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(layer, "layer.v1.tar")],
    }
    named = {"annotations": {"org.opencontainers.image.ref.name": PAUSE_IMAGE}}
    described = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [described | named]}
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode()}
    archive.write_bytes(_tar(files | blobs, mode=0o644))
    return Image(PAUSE_IMAGE, archive, described["digest"])


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _architecture() -> str:
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()
