"""A bundle served on this machine's loopback, with one process for the ranker and for each shard."""

import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.manifest import write_json
from exfm.serving.config import LocalConfig, RankerConfig, ServerConfig, ShardConfig
from exfm.serving.local.processes import (
    LOOPBACK,
    POLL_S,
    ServerProcess,
    Start,
    claim_ports,
    start_process,
    stop_processes,
)
from exfm.serving.oip.rest.client import infer

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
"""Time for a server to end, in addition to its settings' own times."""

PORT_OPTIONS = ("--http-port", "--grpc-port", "--stream-port")

RANKER, SHARD, LOCAL = RankerConfig(), ShardConfig(), LocalConfig()


@dataclass(frozen=True)
class LocalServing:
    """A served bundle."""

    model_name: str
    bundle_id: str
    rest_url: str
    grpc_address: str
    shard_addresses: tuple[str, ...]
    """gRPC addresses of the shards, for manual lookups; none if the ranker holds all tables."""
    lookup_addresses: tuple[str, ...]
    """Stream addresses of the shards, for the ranker."""
    shard_urls: tuple[str, ...]
    """REST URLs of the shards, for health and metrics."""
    servers: list[ServerProcess]
    """The ranker, then the shards in order."""

    def __str__(self) -> str:
        """Return one line with the addresses."""
        return (
            f"serving {self.model_name} (bundle {self.bundle_id[:12]}, {len(self.shard_addresses)} shards): "
            f"REST {self.rest_url}/v2/models/{self.model_name}/infer, gRPC {self.grpc_address}"
        )

    def infer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the ranker's answer to a request, both in the protocol's JSON form.

        Raises: RequestError, ServingError.
        """
        return infer(self.rest_url, self.model_name, body)

    def check(self) -> None:
        """Return if all servers run.

        Raises: ServingError, which says which one does not.
        """
        for server in self.servers:
            server.check()


@contextmanager
def serve_local(
    bundle: Path,
    *,
    http_port: int = 0,
    grpc_port: int = 0,
    ranker: RankerConfig = RANKER,
    shard: ShardConfig = SHARD,
    is_sharded: bool = True,
    start: Start = start_process,
    watch: Callable[[], None] = lambda: None,
) -> Iterator[LocalServing]:
    """Yield a bundle's ranker and shards when all are ready, and stop them when the block ends.

    The ports are the ranker's; 0: a free one. `ranker` and `shard` are the servers' settings; their `listen` is not
    used. Without `is_sharded`, the ranker holds all tables, and there are no shards. The ranker is ready once its
    shards gave the bundle's golden scores. `watch` is called again and again until then; it may raise. The servers end
    with the calling thread.

    Raises: BundleError, ConfigError if a port is in use, ServingError if a server does not become ready.
    """
    manifest = BundleManifest.read(bundle)
    num_shards = manifest.plan.num_shards if is_sharded else 0
    flat = claim_ports([http_port, grpc_port, *([0, 0, 0] * num_shards)])
    shard_ports = [tuple(flat[at : at + 3]) for at in range(2, len(flat), 3)]
    http_port, grpc_port = flat[:2]
    serving = LocalServing(
        model_name=manifest.name,
        bundle_id=manifest.bundle_id,
        rest_url=f"http://{LOOPBACK}:{http_port}",
        grpc_address=f"{LOOPBACK}:{grpc_port}",
        shard_urls=tuple(f"http://{LOOPBACK}:{ports[0]}" for ports in shard_ports),
        shard_addresses=tuple(f"{LOOPBACK}:{ports[1]}" for ports in shard_ports),
        lookup_addresses=tuple(f"{LOOPBACK}:{ports[2]}" for ports in shard_ports),
        servers=[],
    )

    def check() -> None:
        watch()
        serving.check()

    with tempfile.TemporaryDirectory(prefix="exfm-serve-") as scratch:
        try:
            for kind, config in (("ranker", ranker), ("shard", shard)):
                write_json(Path(scratch) / f"{kind}.json", config.to_dict())  # which is YAML
            commands = _commands(serving, bundle, [(http_port, grpc_port), *shard_ports], Path(scratch))
            for name, arguments in commands.items():
                serving.servers.append(start(name, arguments, log=Path(scratch) / f"{name}.log"))
            for server, url in zip(serving.servers, (serving.rest_url, *serving.shard_urls), strict=True):
                server.wait_until_ready(f"{url}/v2/health/ready", watch=check, timeout_s=START_TIMEOUT_S)
            yield serving
        finally:
            # The ranker stops first: its requests under way need the shards.
            stop_processes(serving.servers[:1], timeout_s=_stop_timeout_s(ranker))
            stop_processes(serving.servers[1:], timeout_s=_stop_timeout_s(shard))


def serve_until_stopped(
    bundle: Path, *, http_port: int, grpc_port: int, announce: Callable[[str], None], config: LocalConfig = LOCAL
) -> None:
    """Serve a bundle until SIGTERM or SIGINT; `announce` gets one line when it is ready. For the main thread.

    The ports are the ranker's; 0: a free one. All other settings are those of `config`.

    A shard that ends is announced; the ranker goes on without it.

    Raises: as `serve_local`; ServingError if the ranker ends by itself.
    """
    signals = list[int]()  # loops check it: an exception that a handler raises is lost in a destructor or a callback

    def note(number: int, frame: object) -> None:
        signals.append(number)

    def check_stop() -> None:
        if signals:
            raise _Stopped

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with serve_local(
            bundle, http_port=http_port, grpc_port=grpc_port, ranker=config.ranker, shard=config.shard, watch=check_stop
        ) as serving:
            announce(str(serving))
            lost: set[str] = set()
            while not signals:
                serving.servers[0].check()
                for shard in serving.servers[1:]:
                    if shard.name not in lost and shard.process.poll() is not None:
                        lost.add(shard.name)
                        announce(
                            f"{shard.name} has ended: requests fail (503, UNAVAILABLE), or are degraded where "
                            "when_shard_fails says so, until this is started again"
                        )
                time.sleep(POLL_S)
    except _Stopped:
        return
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Stopped(Exception):  # noqa: N818  # not an error: it ends the start
    """A signal came during the start."""


def _commands(
    serving: LocalServing, bundle: Path, ports: Sequence[Sequence[int]], scratch: Path
) -> dict[str, list[str]]:
    """Return each server's command line by its name, the ranker's first; `ports` are REST's, gRPC's and streams'."""
    same = ["--bundle", str(bundle), "--bundle-id", serving.bundle_id, "--host", LOOPBACK]
    options = [
        [*same, *(part for pair in zip(PORT_OPTIONS, map(str, of_server), strict=False) for part in pair)]
        for of_server in ports
    ]
    commands = {"the ranker": [
        "exfm.serving.ranker", *options[0], "--settings", str(scratch / "ranker.json"),
        "--shards", ",".join(serving.lookup_addresses),
    ]}  # fmt: skip
    for shard, of_shard in enumerate(options[1:]):
        of_shard += ["--settings", str(scratch / "shard.json"), "--shard", str(shard)]
        commands[f"shard {shard}"] = ["exfm.serving.shard", *of_shard]
    return commands


def _stop_timeout_s(config: ServerConfig) -> float:
    return config.shutdown.lame_duck_s + config.shutdown.drain_s + STOP_TIMEOUT_S
