"""A ranker that keeps items asks no shard for them again, and tells how often."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pods import Pod, Pods, wait_for
from serving_requests import make_request, offline_scores, scores_of

from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.scoring import UnshardedScorer
from exfm.serving.client import ask
from exfm.serving.config import RankerConfig

pytestmark = pytest.mark.slow

HITS, MISSES = "exfm_ranker_cache_hits_total", "exfm_ranker_cache_misses_total"

OTHER = make_request(num_candidates=[7])
"""Four movies beside those three that the golden request has."""


@pytest.fixture
def start(bundle: Path, pods: Pods) -> Callable[..., tuple[Pod, list[Pod]]]:
    """Return what starts a ranker with a cache, and two shards."""

    def start_servers(**settings: Any) -> tuple[Pod, list[Pod]]:
        shards = [pods.shard(bundle, shard) for shard in range(2)]
        # Two items that come at once share a set of slots, and one is kept later, in 1 % of starts with 1 MiB.
        settings = {"cache_mib": 64, **settings}
        ranker = pods.ranker(bundle, [shard.lookup_address for shard in shards], settings=settings)
        ranker.wait_until_ready()
        return ranker, shards

    return start_servers


def degraded_tables(answer: dict[str, Any]) -> set[str]:
    """Return of which tables rows are missing."""
    return set(answer["parameters"]["degraded_tables"].split(",")) - {""}


def assert_scores(answer: dict[str, Any], expected: dict[str, list[float]]) -> None:
    for task, scores in expected.items():
        np.testing.assert_allclose(scores_of(answer)[task], scores, atol=1e-5)


def test_rankers_keep_nothing_by_default() -> None:
    assert RankerConfig().cache_mib == 0


def test_a_deployments_settings_go_before_the_files(bundle: Path, pods: Pods) -> None:
    arguments = ["--cache-mib=1", "--local-tables-mib=0"]
    settings = {"cache_mib": 0, "local_tables_mib": 1}
    ranker = pods.ranker(bundle, ["127.0.0.1:1"] * 2, settings=settings, arguments=arguments)
    wait_for(lambda: any("not ready" in line for line in ranker.lines()))
    assert [line for line in ranker.lines() if "keeps up to" in line]
    assert not [line for line in ranker.lines() if "holds" in line]


def test_items_of_before_score_the_same_and_are_counted(start: Callable[..., Any], bundle: Path) -> None:
    ranker, _ = start()
    ranker.ask()  # for what the golden request has, which made it ready
    hits, misses = ranker.counted(HITS), ranker.counted(MISSES)
    for new_hits, new_misses in ((3, 4), (6, 8), (13, 8)):
        assert_scores(ask(ranker.rest_url, "students", OTHER), offline_scores(bundle, OTHER))
        assert (ranker.counted(HITS) - hits, ranker.counted(MISSES) - misses) == (new_hits, new_misses)


def test_a_shard_is_sent_no_keys_of_known_items(start: Callable[..., Any], bundle: Path) -> None:
    ranker, _ = start()
    schema = UnshardedScorer.load(bundle).manifest.feature_schema
    user = encode_request(tensors_from_json(make_request()), schema).user
    metrics = [f'exfm_ranker_lookup_keys_total{{shard="{shard}"}}' for shard in range(2)]
    ranker.ask()  # for the second time: the golden request has these items, too
    before = sum(ranker.counted(metric) for metric in metrics)
    ranker.ask()
    assert sum(ranker.counted(metric) for metric in metrics) - before == sum(len(b.keys) for b in user.bags.values())


def test_known_items_are_whole_while_a_shard_is_away_and_what_is_made_up_is_not_kept(
    start: Callable[..., Any], pods: Pods, bundle: Path
) -> None:
    ranker, shards = start(when_shard_fails="degrade", breaker_pause_ms=200)
    assert degraded_tables(ranker.ask()) == set()
    shards[1].server.process.kill()
    shards[1].exit_code()
    wait_for(lambda: degraded_tables(ranker.ask()) != set())
    assert "genre" not in degraded_tables(ranker.ask()), "only items have genres, and these are known"
    for _ in range(3):  # an item that comes up again would be kept
        answer = ask(ranker.rest_url, "students", OTHER)
        assert "genre" in degraded_tables(answer)
    assert ranker.counted("exfm_ranker_degraded_answers_total") > 3
    port = int(shards[1].lookup_address.rsplit(":", 1)[1])
    pods.shard(bundle, 1, port=port).wait_until_ready()
    wait_for(lambda: degraded_tables(ranker.ask()) == set())
    assert_scores(ask(ranker.rest_url, "students", OTHER), offline_scores(bundle, OTHER))
