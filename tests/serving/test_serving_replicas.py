"""Several servers behind the name of one shard: all get requests, and one that ends costs none."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dns_server import DnsServer
from pods import Load, Pod, Pods, free_ports, wait_for
from serving_requests import make_request, offline_scores, scores_of

from exfm.errors import DeadlineError, ShardUnavailableError
from exfm.serving.oip.rest.client import infer
from exfm.serving.ranker.shards.stream_link import RESOLVE_S

pytestmark = pytest.mark.slow

HOSTS = ("127.0.0.1", "127.0.0.2")
"""Two addresses of this machine; DNS tells addresses but no ports, so both servers listen on one port."""


@dataclass
class Cluster:
    """A ranker, shard 0, and shard 1 on two servers."""

    ranker: Pod
    shard_0: Pod
    replicas: list[Pod]


@pytest.fixture
def start(bundle: Path, pods: Pods, dns: DnsServer) -> Callable[..., Cluster]:
    """Return what starts a cluster; DNS knows all of shard 1's servers, or as many as told."""

    def start_cluster(
        *, num_known: int = 2, settings: dict[str, Any] | None = None, of_ranker: dict[str, Any] | None = None
    ) -> Cluster:
        ports = free_ports(2)
        dns.names = {"shard-0.exfm": ["127.0.0.1"], "shard-1.exfm": list(HOSTS[:num_known])}
        shard_0 = pods.shard(bundle, 0, port=ports[0], settings=settings)
        replicas = [pods.shard(bundle, 1, host=host, port=ports[1], settings=settings) for host in HOSTS]
        for pod in (shard_0, *replicas):
            pod.wait_until_ready()
        names = [dns.address_of(f"shard-{shard}.exfm", port) for shard, port in enumerate(ports)]
        cluster = Cluster(pods.ranker(bundle, names, settings=of_ranker), shard_0, replicas)
        cluster.ranker.wait_until_ready()
        wait_for(lambda: all(lookups_of(replicas[:num_known], cluster, num_requests=4)))
        return cluster

    return start_cluster


def end(pod: Pod, number: signal.Signals) -> int:
    pod.server.process.send_signal(number)
    return pod.exit_code()


def lookups_of(pods: list[Pod], cluster: Cluster, *, num_requests: int) -> list[int]:
    """Return how many of some requests each server looked up."""
    before = [pod.num_lookups() for pod in pods]
    for _ in range(num_requests):
        cluster.ranker.infer()
    return [pod.num_lookups() - count for pod, count in zip(pods, before, strict=True)]


def test_servers_of_one_shard_take_turns(start: Callable[..., Cluster]) -> None:
    cluster = start()
    assert lookups_of(cluster.replicas, cluster, num_requests=20) == [10, 10]


def test_an_added_replica_gets_its_share_after_the_next_lookup_of_its_name(
    start: Callable[..., Cluster], dns: DnsServer
) -> None:
    cluster = start(num_known=1)
    assert lookups_of(cluster.replicas, cluster, num_requests=10) == [10, 0]
    dns.names["shard-1.exfm"] = list(HOSTS)
    began_s = time.monotonic()
    load = Load(cluster.ranker)
    load.during(lambda: wait_for(lambda: cluster.replicas[1].num_lookups() > 0))
    assert time.monotonic() - began_s < RESOLVE_S + 4
    assert load.errors == []


def test_ending_one_of_two_servers_by_sigterm_costs_no_request(start: Callable[..., Cluster], dns: DnsServer) -> None:
    cluster = start(settings={"shutdown": {"lame_duck_s": 1}})
    leaving = cluster.replicas[0]

    def end_one() -> None:
        time.sleep(1)
        leaving.server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not leaving.is_ready())
        dns.names["shard-1.exfm"] = [HOSTS[1]]  # as Kubernetes does when a Pod is not ready
        assert leaving.exit_code() == 0
        time.sleep(1)

    load = Load(cluster.ranker)
    load.during(end_one)
    assert load.errors == []
    assert load.num_answered > 20


def test_ending_one_of_two_servers_without_warning_costs_no_request(start: Callable[..., Cluster]) -> None:
    cluster = start()

    def end_one() -> None:
        time.sleep(1)
        end(cluster.replicas[0], signal.SIGKILL)
        time.sleep(2)

    load = Load(cluster.ranker)
    load.during(end_one)
    assert load.errors == []
    assert load.num_answered > 20


def large_request() -> dict[str, Any]:
    """Return a request whose lookup in shard 1 has 800 kB."""
    body = make_request(num_candidates=[10_000])
    genres = {"datatype": "BYTES", "shape": [100_000], "data": ["Drama"] * 100_000}
    lengths = {"datatype": "INT32", "shape": [10_000], "data": [10] * 10_000}
    changed = {"genres": genres, "genres.lengths": lengths}
    return {"inputs": [item | changed.get(item["name"], {}) for item in body["inputs"]]}


def test_a_large_lookup_under_way_on_a_server_that_dies_is_answered_by_another(start: Callable[..., Cluster]) -> None:
    cluster = start()
    body = large_request() | {"parameters": {"timeout": 20_000_000}}
    stopped = cluster.replicas[0].server.process
    stopped.send_signal(signal.SIGSTOP)
    with ThreadPoolExecutor(2) as pool:
        under_way = [pool.submit(infer, cluster.ranker.rest_url, "students", body, timeout_s=30) for _ in range(2)]
        time.sleep(1.5)
        assert not all(one.done() for one in under_way)  # they take turns
        stopped.kill()
        for one in under_way:
            assert len(scores_of(one.result())["like"]) == 10_000


def test_a_server_that_does_not_answer_any_more_is_left_out_within_seconds(start: Callable[..., Cluster]) -> None:
    cluster = start()
    stopped = cluster.replicas[0].server.process
    stopped.send_signal(signal.SIGSTOP)
    assert not all(answers(cluster.ranker) for _ in range(2))  # they take turns
    time.sleep(6)
    assert all(answers(cluster.ranker) for _ in range(10))


def test_no_server_left_gives_unavailable_and_a_new_address_is_found(
    start: Callable[..., Cluster], dns: DnsServer, bundle: Path, pods: Pods
) -> None:
    cluster = start(num_known=1)
    replaced = cluster.replicas[0]
    end(replaced, signal.SIGKILL)
    del dns.names["shard-1.exfm"]  # as Kubernetes does while no Pod is ready
    began_s = time.monotonic()
    with pytest.raises(ShardUnavailableError, match=r"shard 1 at dns://.*/shard-1\.exfm:[0-9]+ cannot be reached"):
        cluster.ranker.infer()
    assert time.monotonic() - began_s < 1
    time.sleep(3)
    dns.names["shard-1.exfm"] = [HOSTS[1]]
    began_s = time.monotonic()
    wait_for(lambda: answers(cluster.ranker))
    assert time.monotonic() - began_s < 6


def answers(ranker: Pod) -> bool:
    try:
        return bool(ranker.infer())
    except (ShardUnavailableError, DeadlineError):
        return False


def test_a_ranker_with_replicas_gives_the_unsharded_models_scores(start: Callable[..., Cluster], bundle: Path) -> None:
    cluster = start()
    expected = offline_scores(bundle, make_request())
    for _ in range(4):
        scores = scores_of(cluster.ranker.infer())
        for task, values in expected.items():
            assert scores[task] == pytest.approx(values, abs=1e-3)
