"""Sharded serving beside other servers of the same model, as their documentation says and tuned."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exfm.errors import ServingError
from exfm_bench.ratios import Interval, Verdict
from exfm_bench.serving.blocks import Series
from exfm_bench.serving.client import Client, Server
from exfm_bench.serving.config import ServingBenchConfig
from exfm_bench.serving.layers import MeanBreakdown, trace_layers
from exfm_bench.serving.measuring import BASELINES, Say, best_threads
from exfm_bench.serving.models import ModelKind
from exfm_bench.serving.peer_servers import (
    Peer,
    RunningPeer,
    json_body,
    kserve_peers,
    mlserver_peers,
    scores_of_json,
    serving_peer,
    write_plain,
)
from exfm_bench.serving.servers import ONE_SHARD, Bundles, serving
from exfm_bench.serving.starts import NUM_SCORED, take_series
from exfm_bench.serving.targets import MIN_BLOCKS

FASTER, SMALLER = 4.0, 3.5
"""Targets: how many times as fast as KServe's own server, tuned, sharded serving is, and its tables as small."""


@dataclass(frozen=True)
class PeersFound:
    """All servers of one model, one request at a time."""

    model: str
    candidates: int
    threads: int
    unsharded: Series
    same: Series
    sharded: Series
    peers: tuple[tuple[Peer, Series], ...]
    missing: tuple[str, ...]
    """Peers that are not installed or did not start, and why."""
    layers: tuple[MeanBreakdown, ...]
    """Breakdowns of exfm's servers: the unsharded ones, then the sharded."""
    score_differences: tuple[float, ...]
    """Largest difference of each peer's scores from the unsharded server's: fp32 against int8."""
    fp32_bytes: int
    """Bytes of the peers' tables."""
    int8_bytes: int

    @property
    def times_smaller(self) -> float:
        """Return how many times as large the peers' tables are."""
        return self.fp32_bytes / self.int8_bytes

    def times_slower(self, series: Series) -> Interval:
        """Return a peer's median latency over that of sharded serving."""
        return series.ratio("p50_ms", self.sharded)


def is_faster(found: PeersFound, peer: Series) -> Verdict:
    """Return whether sharded serving is FASTER than a peer; few blocks or failed requests resolve nothing."""
    times = found.times_slower(peer)
    if found.sharded.num_failed or times.high < FASTER:  # a refusal takes no time
        return "not met"
    is_known = len(peer.blocks) >= MIN_BLOCKS and not peer.num_failed
    return "met" if is_known and times.low >= FASTER else "not resolved"


def measure_peers(
    config: ServingBenchConfig, kind: ModelKind, bundles: Bundles, scratch: Path, *, say: Say
) -> PeersFound:
    """Return what was measured of all peers that are installed, serving a model of this kind.

    Raises: ConfigError if MLServer is not where the settings say; ServingError if exfm's servers do not start, or one
    does not answer.
    """
    settings = config.peers
    peers = [*kserve_peers(), *(mlserver_peers(Path(settings.mlserver)) if settings.mlserver else [])]
    model = config.model(kind)
    requests = model.requests(config.distinct_requests, candidates=settings.candidates, seed=config.seed)
    bodies = [json_body(request) for request in requests]
    messages = model.messages(config.distinct_requests, candidates=settings.candidates, seed=config.seed)
    variant = settings.variant()
    whole, in_shards = (bundles.of(kind, model, one, candidates=settings.candidates) for one in (ONE_SHARD, variant))
    plain = scratch / "plain"
    write_plain(model, plain)
    threads = config.threads or best_threads(whole, messages, config)
    say(f"  {'; '.join(map(str, peers))}: a closed loop")
    with ExitStack() as stack, Client() as client:
        ours = [
            stack.enter_context(serving(whole, threads=threads, precision=config.dense_precision)) for _ in BASELINES
        ]
        ours.append(
            stack.enter_context(serving(in_shards, threads=threads, precision=config.dense_precision, variant=variant))
        )
        running: dict[Peer, RunningPeer] = {}
        missing = [] if settings.mlserver else ["MLServer: left out, as peers.mlserver names no environment"]
        for number, peer in enumerate(peers):
            serving_it = serving_peer(peer, plain, scratch=scratch / str(number), threads=threads)
            try:
                running[peer] = stack.enter_context(serving_it)
            except ServingError as error:  # one that does not start shall not cost what others were measured to do
                missing.append(f"{peer}: {str(error).splitlines()[0]}")
                say(f"  {missing[-1]}")
        names = (*BASELINES, str(variant))
        servers = [client.server(name, local, messages) for name, local in zip(names, ours, strict=True)]
        for peer, one in running.items():
            if peer.tuned:
                servers.append(Server(str(peer), one.pids(), client.connect(one.grpc_address), messages))
            else:
                send = client.connect_json(one.infer_url)
                servers.append(Server(str(peer), one.pids(), send, bodies, scores_of_json))
        scores = [client.scores(server, server.messages[:NUM_SCORED]) for server in servers]
        unsharded, same, sharded, *others = take_series(
            client, servers, config, numbers=range(config.blocks), num_requests=settings.requests
        )
        addresses = [(name, local.grpc_address) for name, local in zip(names, ours, strict=True)]
        layers = trace_layers(addresses, requests, num_starts=1, seed=(config.seed, 0))
    statistics = model.statistics(candidates=settings.candidates)
    return PeersFound(
        model=kind,
        candidates=settings.candidates,
        threads=threads,
        unsharded=unsharded,
        same=same,
        sharded=sharded,
        peers=tuple(zip(running, others, strict=True)),
        missing=tuple(missing),
        layers=tuple(layers),
        score_differences=tuple(float(np.abs(one - scores[0]).max()) for one in scores[len(names) :]),
        fp32_bytes=statistics.size_bytes("fp32"),
        int8_bytes=statistics.size_bytes("int8"),
    )
