"""A ranker that holds tables of items itself asks no shard for them."""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pods import Pod, Pods
from serving_requests import Scores, make_request, offline_scores, scores_of

from exfm.artifact.bundle import BundleManifest
from exfm.artifact.storage import MANIFEST
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.scoring import NetPooled, Scorer
from exfm.serving.config import RankerConfig
from exfm.serving.models.bundle_part import load_verified
from exfm.serving.oip.rest.client import infer
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Profiler
from exfm.serving.ranker.shards.fan_out import TURNS_TO_SEND, lookup_all
from exfm.serving.ranker.shards.link import ShardCall
from exfm.serving.ranker.shards.local_link import LocalLink
from exfm.serving.requests.call import Deadline

pytestmark = pytest.mark.slow

MANY = make_request(num_candidates=[5, 0, 4])
"""Of three users."""


@pytest.fixture
def start(bundle: Path, pods: Pods) -> Callable[..., Pod]:
    """Return what starts two shards, and a ranker that has room for the tables of items."""

    def start_servers(**settings: Any) -> Pod:
        shards = [pods.shard(bundle, shard) for shard in range(2)]
        addresses = [shard.lookup_address for shard in shards]
        ranker = pods.ranker(bundle, addresses, settings={"shards": {"local_tables_mib": 1}, **settings})
        ranker.wait_until_ready()
        return ranker

    return start_servers


def test_rankers_hold_no_tables_by_default() -> None:
    assert RankerConfig().shards.local_tables_mib == 0


def test_tables_in_the_ranker_score_as_those_on_shards_do(start: Callable[..., Pod], bundle: Path) -> None:
    ranker = start()
    assert any("holds 2 tables itself: genre, item" in line for line in ranker.lines())
    for body in (make_request(), MANY):
        scores = scores_of(infer(ranker.rest_url, "students", body))
        for task, expected in offline_scores(bundle, body).items():
            assert scores[task] == pytest.approx(expected, abs=1e-6)


def test_shards_get_no_keys_of_tables_that_the_ranker_holds(start: Callable[..., Pod]) -> None:
    ranker = start()
    metrics = [f'exfm_ranker_lookup_keys_total{{shard="{part}"}}' for part in range(3)]
    before = [ranker.counted(metric) for metric in metrics]
    ranker.infer()
    # Of shard 0's the user's id, of shard 1's profile twice; all that is liked, three ids and four genres are here.
    assert [ranker.counted(metric) - was for metric, was in zip(metrics, before, strict=True)] == [1, 2, 9]


def test_own_tables_are_looked_up_once_shards_were_asked_and_before_the_rest(bundle: Path) -> None:
    scorer = Scorer.load(bundle, BundleManifest.read(bundle))
    tables = load_verified(bundle, scorer.manifest, shard=0)
    batches = encode_request(tensors_from_json(make_request()), scorer.manifest.feature_schema)
    profiler, happened = Profiler(), list[tuple[str, int]]()

    class FarShard:
        async def lookup(self, call: ShardCall) -> NetPooled:
            for _ in range(TURNS_TO_SEND - 1):
                await asyncio.sleep(0)
            happened.append(("asked", time.perf_counter_ns()))
            return {}

    async def ask_both() -> None:
        own = LocalLink(tables, scorer, shard=0, num_turns=TURNS_TO_SEND)
        await lookup_all(
            [FarShard(), own],
            [scorer.bags_for(batches)[0]] * 2,
            deadline=Deadline.after(1),
            meanwhile=lambda: happened.append(("the rest", time.perf_counter_ns())),
            may_miss=False,
            profiler=profiler,
        )

    asyncio.run(ask_both())
    happened += [(one.name, one.began_ns) for one in profiler.intervals if one.name == Layer.EMBEDDING]
    assert [name for name, _ in sorted(happened, key=lambda one: one[1])] == ["asked", Layer.EMBEDDING, "the rest"]


def test_a_ranker_with_its_own_part_of_a_bundle_alone_cannot_hold_tables(
    bundle: Path, pods: Pods, tmp_path: Path
) -> None:
    for part in ("ranker", "golden"):
        shutil.copytree(bundle / part, tmp_path / "part" / part)
    shutil.copy(bundle / MANIFEST, tmp_path / "part")
    ranker = pods.ranker(tmp_path / "part", ["127.0.0.1:1"] * 2, settings={"shards": {"local_tables_mib": 1}})
    assert ranker.exit_code() == 2
    assert (
        f"error: shards.local_tables_mib is set, but {tmp_path / 'part'} lacks shards/0/tables.safetensors, "
        "shards/1/tables.safetensors: serve from a folder or a claim"
    ) in ranker.lines()[-1]


def test_damaged_tables_are_not_held(bundle: Path, pods: Pods, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    file = damaged / "shards/1/tables.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    ranker = pods.ranker(damaged, ["127.0.0.1:1"] * 2, settings={"shards": {"local_tables_mib": 1}})
    assert ranker.exit_code() == 2
    assert "shards/1/tables.safetensors is damaged" in ranker.lines()[-1]


def test_a_lost_shard_degrades_what_it_alone_holds(bundle: Path, pods: Pods) -> None:
    shards = [pods.shard(bundle, shard) for shard in range(2)]
    settings = {
        "shards": {"local_tables_mib": 1, "when_shard_fails": "degrade"},
        "deadlines": {"default_ms": 20_000},
    }
    ranker = pods.ranker(bundle, [shard.lookup_address for shard in shards], settings=settings)
    ranker.wait_until_ready()
    shards[0].server.process.kill()
    shards[0].exit_code()
    answer = ranker.infer()
    assert answer["parameters"]["degraded_tables"] == "user"
    expected = scores_without_users_of(bundle, shard=0)
    for task, fully_degraded in offline_scores(bundle, make_request(), without=[0]).items():
        assert scores_of(answer)[task] == pytest.approx(expected[task], abs=1e-5), "tables of items are whole"
        assert expected[task] != pytest.approx(fully_degraded, abs=1e-3), "equal scores would hide any mistake"


def scores_without_users_of(bundle: Path, *, shard: int) -> Scores:
    """Return the model's scores, by task, with fallback rows for the users' tables of one shard alone."""
    manifest = BundleManifest.read(bundle)
    scorer = Scorer.load(bundle, manifest)
    batches = encode_request(tensors_from_json(make_request()), manifest.feature_schema)
    pooled: list[NetPooled] = []
    for number, bags in enumerate(scorer.bags_for(batches)):
        tables = load_verified(bundle, manifest, shard=number)
        found = {net: tables.pooled(net, of_net) for net, of_net in bags.items()}
        pooled.append(found | {"user": scorer.stand_in(bags, shard=number)["user"]} if number == shard else found)
    scores_NT = scorer.scores(batches, pooled, scorer.bottom(batches))
    return {task: scores_NT[:, column].tolist() for column, task in enumerate(manifest.tasks)}
