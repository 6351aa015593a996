"""What callers see of a shard that is away, where answers may be degraded."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc
from pods import Load, Pod, Pods, wait_for
from serving_bundles import seal_with_golden_scores
from serving_requests import grpc_inputs, make_request, offline_scores, scores_of

from exfm.artifact.fallback_rows import FALLBACK_FILE
from exfm.artifact.plan import ShardPlan
from exfm.bundling.shard_files import write_shards
from exfm.errors import VersionMismatchError
from exfm.models.network import DenseNetwork
from exfm.schema import Schema
from exfm.serving.oip.rest.client import infer

pytestmark = pytest.mark.slow

COMPLETE = {"degraded": False, "degraded_tables": ""}
WITHOUT_SHARD_1 = {"degraded": True, "degraded_tables": "genre,item,profile"}
WITHOUT_SHARD_0 = {"degraded": True, "degraded_tables": "item,user"}
"""The request has no disliked items, whose table it has, too."""


@dataclass
class Servers:
    """A ranker that may degrade, and two shards."""

    ranker: Pod
    shards: list[Pod]

    def is_complete(self) -> bool:
        """Return whether an answer is complete; it is flagged if not."""
        parameters = self.ranker.infer()["parameters"]
        assert parameters["degraded"] is bool(parameters["degraded_tables"])
        return bool(parameters == COMPLETE)


@pytest.fixture
def start(bundle: Path, pods: Pods) -> Callable[..., Servers]:
    """Return what starts servers, the ranker with these settings besides."""

    def start_servers(**settings: Any) -> Servers:
        shards = [pods.shard(bundle, shard) for shard in range(2)]
        ranker = pods.ranker(
            bundle,
            [shard.lookup_address for shard in shards],
            settings={"shards": {"when_shard_fails": "degrade"}, "breaker": {"pause_ms": 200}, **settings},
        )
        ranker.wait_until_ready()
        return Servers(ranker, shards)

    return start_servers


def replace(servers: Servers, pods: Pods, bundle: Path, *, shard: int = 1) -> None:
    """Start another server where a shard was, and wait until it serves."""
    port = int(servers.shards[shard].lookup_address.rsplit(":", 1)[1])
    pods.shard(bundle, shard, port=port).wait_until_ready()


def kill(pod: Pod) -> None:
    pod.server.process.kill()
    pod.exit_code()


def assert_scores(answer: dict[str, Any], expected: dict[str, list[float]]) -> None:
    scores = scores_of(answer)
    for task, values in expected.items():
        assert scores[task] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_shard_costs_no_answer_and_one_in_its_place_makes_them_complete_again(
    start: Callable[..., Servers], bundle: Path, pods: Pods, lost: int
) -> None:
    servers = start()
    whole, degraded = (offline_scores(bundle, make_request(), without=shards) for shards in ((), (lost,)))
    assert abs(whole["like"][0] - degraded["like"][0]) > 1e-3, "equal scores would hide any mistake"
    assert_scores(servers.ranker.infer(), whole)

    def lose_one_and_replace_it() -> None:
        kill(servers.shards[lost])
        wait_for(lambda: not servers.is_complete())
        for _ in range(10):
            answer = servers.ranker.infer()
            assert answer["parameters"] == (WITHOUT_SHARD_0, WITHOUT_SHARD_1)[lost]
            assert_scores(answer, degraded)
        replace(servers, pods, bundle, shard=lost)
        wait_for(servers.is_complete)

    load = Load(servers.ranker)
    load.during(lose_one_and_replace_it)
    assert load.errors == []
    assert_scores(servers.ranker.infer(), whole)
    assert servers.ranker.counted("exfm_ranker_degraded_answers_total") > 10
    assert servers.ranker.counted(f'exfm_ranker_missing_answers_total{{shard="{lost}"}}') > 10
    assert servers.ranker.counted(f'exfm_ranker_missing_answers_total{{shard="{1 - lost}"}}') == 0


def test_a_degraded_answer_over_grpc_says_so(start: Callable[..., Servers]) -> None:
    servers = start()
    kill(servers.shards[1])
    with tritonclient.grpc.InferenceServerClient(servers.ranker.grpc_address) as client:
        parameters = client.infer("students", grpc_inputs(make_request())).get_response().parameters
    assert parameters["degraded"].bool_param is True
    assert parameters["degraded_tables"].string_param == WITHOUT_SHARD_1["degraded_tables"]


def test_without_any_shard_answers_are_the_fallback_rows(start: Callable[..., Servers], bundle: Path) -> None:
    servers = start()
    for shard in servers.shards:
        kill(shard)
    answer = servers.ranker.infer()
    assert answer["parameters"]["degraded"]
    assert_scores(answer, offline_scores(bundle, make_request(), without=(0, 1)))


def test_a_stopped_shard_degrades_within_its_budget_and_after_some_failures_at_once(
    start: Callable[..., Servers],
) -> None:
    servers = start(deadlines={"shard_budget": 0.25}, breaker={"failures": 2, "pause_ms": 5_000})
    stopped = servers.shards[1].server.process
    stopped.send_signal(signal.SIGSTOP)
    body = make_request() | {"parameters": {"timeout": 4_000_000}}
    took_s = []
    for _ in range(4):
        began_s = time.monotonic()
        answer = infer(servers.ranker.rest_url, "students", body)
        took_s.append(time.monotonic() - began_s)
        assert answer["parameters"] == WITHOUT_SHARD_1
    assert all(1.0 < waited_s < 2.5 for waited_s in took_s[:2])
    assert all(waited_s < 0.9 for waited_s in took_s[2:])
    assert any("failed 2 times in a row" in line for line in servers.ranker.lines())
    stopped.send_signal(signal.SIGCONT)
    wait_for(servers.is_complete)
    assert any("answers again" in line for line in servers.ranker.lines())


def test_a_shard_of_another_bundle_is_refused_not_degraded(
    start: Callable[..., Servers],
    pods: Pods,
    schema: Schema,
    tables: dict[str, Any],
    network: DenseNetwork,
    plan: ShardPlan,
    tmp_path: Path,
) -> None:
    servers = start()
    write_shards(tmp_path / "another", {name: table + 1 for name, table in tables.items()}, plan, hottest={})
    another = seal_with_golden_scores(tmp_path / "another", schema, network, plan)
    kill(servers.shards[1])
    replace(servers, pods, another)

    def is_refused() -> bool:
        try:
            servers.is_complete()
        except VersionMismatchError:
            return True
        return False

    wait_for(is_refused)
    for _ in range(10):
        with pytest.raises(VersionMismatchError, match="shard 1 at"):
            servers.ranker.infer()
    assert servers.ranker.counted('exfm_ranker_mismatched_shards_total{shard="1"}') >= 10
    assert sum("does not serve this shard of this bundle: " in line for line in servers.ranker.lines()) == 1


def test_a_bundle_without_fallback_rows_cannot_be_served_degraded(
    pods: Pods, schema: Schema, tables: dict[str, Any], network: DenseNetwork, plan: ShardPlan, tmp_path: Path
) -> None:
    write_shards(tmp_path / "old", tables, plan, hottest={})
    old = seal_with_golden_scores(tmp_path / "old", schema, network, plan)
    assert not (old / FALLBACK_FILE).exists()
    ranker = pods.ranker(
        old,
        ["127.0.0.1:1", "127.0.0.1:1"],
        settings={"shards": {"when_shard_fails": "fail"}},
        arguments=["--when-shard-fails=degrade"],  # as a deployment says it
    )
    assert ranker.exit_code() == 2
    assert ranker.lines()[-1] == (
        "error: shards.when_shard_fails is 'degrade', but bundle 'students' has no fallback rows: "
        "export it again, or set 'fail'"
    )
