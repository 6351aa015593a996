"""Server processes as a cluster runs them: each with its own address and settings, started and ended one by one."""

import json
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving_requests import make_request

from exfm.errors import ExfmError
from exfm.serving.config import Device
from exfm.serving.local.processes import ServerProcess, Start, claim_ports
from exfm.serving.oip.rest.client import infer

LONG_S = 60.0

NOT_ON_CUDA = (("dense_precision", "int8"),)
"""Settings that servers refuse there."""


_claimed: deque[int] = deque(maxlen=100)
"""Ports of servers that may not listen yet: the last ones, as there are not ports for all servers of a run."""


def free_ports(count: int) -> list[int]:
    """Return ports of which no server of the tests has one, though it may not listen yet."""
    while True:
        ports = claim_ports([0] * count)
        if not set(ports).intersection(_claimed):
            _claimed.extend(ports)
            return ports


def children_of(pid: int) -> list[int]:
    """Return the processes that a process's main thread started and that were not reaped, in order."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    give_up_s = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


@dataclass(frozen=True)
class Pod:
    """One server."""

    server: ServerProcess
    rest_url: str
    grpc_address: str
    lookup_address: str
    """Where rankers reach it, if it is a shard."""

    def is_ready(self) -> bool:
        """Return what a readiness probe would."""
        try:
            return httpx.get(f"{self.rest_url}/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def wait_until_ready(self) -> None:
        """Return once it is ready."""

        def is_ready() -> bool:
            self.server.check()
            return self.is_ready()

        wait_for(is_ready)

    def lines(self) -> list[str]:
        """Return what it has logged."""
        return self.server.log.read_text().splitlines()

    def connect(self) -> socket.socket:
        """Return a connection to where rankers reach it."""
        host, port = self.lookup_address.split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def exit_code(self) -> int:
        """Return its exit code, once it has ended."""
        return self.server.process.wait(LONG_S)

    def infer(self) -> dict[str, Any]:
        """Return its answer to a request."""
        return infer(self.rest_url, "students", make_request())

    def counted(self, metric: str) -> float:
        """Return one of its metrics, `name{labels}` as it is shown."""
        lines = httpx.get(f"{self.rest_url}/metrics").text.splitlines()
        [value] = [line.removeprefix(metric) for line in lines if line.startswith(f"{metric} ")]
        return float(value)

    def num_lookups(self) -> int:
        """Return the number of requests that its model answered."""
        text = httpx.get(f"{self.rest_url}/metrics").text
        counts = re.findall(r'^request_predict_seconds_count{model_name="students[^"]*"} ([0-9.]+)', text, re.MULTILINE)
        return sum(int(float(count)) for count in counts)


def receive(peer: socket.socket, size: int) -> bytes:
    """Return the next bytes that a server sends, so many."""
    received = b""
    while len(received) < size:
        piece = peer.recv(size - len(received))
        assert piece, "the server hung up"
        received += piece
    return received


def resident_bytes(pid: int, *, at_most: bool = False) -> int:
    """Return how much memory a process has of its own, or the most that it ever had, with what it maps."""
    status = Path(f"/proc/{pid}/status").read_text()
    [size_kib] = re.findall(rf"^{'VmHWM' if at_most else 'RssAnon'}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(size_kib) * 1024


@dataclass
class Pods:
    """All servers of a test."""

    folder: Path
    """For logs and settings."""
    start: Start
    device: Device = "cpu"
    started: list[Pod] = field(default_factory=list)

    def shard(self, bundle: Path, shard: int, *, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Pod:
        """Start a shard; rankers reach it at `port`, 0 takes a free one, and `options` are as those of `ranker`."""
        return self._start("shard", bundle, ["--shard", str(shard)], host=host, port=port, **options)

    def ranker(self, bundle: Path, shards: Sequence[str], **options: Any) -> Pod:
        """Start a ranker with these addresses; `options` are `settings` (of the file) and `arguments` (besides)."""
        return self._start("ranker", bundle, ["--shards", ",".join(shards)], host="127.0.0.1", port=0, **options)

    def _start(
        self,
        kind: str,
        bundle: Path,
        own: list[str],
        *,
        host: str,
        port: int,
        settings: dict[str, Any] | None = None,
        arguments: Sequence[str] = (),
    ) -> Pod:
        http_port, grpc_port, stream_port = free_ports(3)
        stream_port = port or stream_port
        own = [*own, "--stream-port", str(stream_port)] if kind == "shard" else own
        name = f"{kind}-{len(self.started)}"
        settings = {"device": self.device, **(settings or {})}
        if self.device == "cuda" and any(settings.get(setting) == value for setting, value in NOT_ON_CUDA):
            pytest.skip("the servers refuse these settings with cuda")
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(settings))
        command = [
            f"exfm.serving.{kind}", "--bundle", str(bundle), "--settings", str(file), "--host", host,
            "--http-port", str(http_port), "--grpc-port", str(grpc_port), *own, *arguments,
        ]  # fmt: skip
        server = self.start(name, command, log=self.folder / f"{name}.log")
        pod = Pod(
            server,
            rest_url=f"http://{host}:{http_port}",
            grpc_address=f"{host}:{grpc_port}",
            lookup_address=f"{host}:{stream_port}",
        )
        self.started.append(pod)
        return pod


@dataclass
class Load:
    """Steady requests to a ranker, from a few threads, while a block runs."""

    ranker: Pod
    num_answered: int = 0
    errors: list[ExfmError] = field(default_factory=list)

    def during(self, block: Callable[[], None]) -> None:
        """Ask until the block has ended."""
        is_over = False

        def keep_asking() -> None:
            while not is_over:
                try:
                    self.ranker.infer()
                    self.num_answered += 1
                except ExfmError as error:
                    self.errors.append(error)
                time.sleep(0.02)

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(keep_asking) for _ in range(4)]
            try:
                block()
            finally:
                is_over = True
            for one in asking:
                one.result()
