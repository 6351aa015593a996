"""Servers that compute requests together give each what it gets alone: scores of a ranker, sums of a shard."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
import tritonclient.grpc
from pods import LONG_S, Pod, Pods, wait_for
from serving_requests import make_request, offline_scores, scores_of

from exfm.artifact.bundle import BundleManifest
from exfm.features.oip import tensors_from_json
from exfm.features.request import encode_request
from exfm.models.lookup import LookupBags
from exfm.models.scoring import Scorer
from exfm.schema import Net
from exfm.serving.client import ask
from exfm.serving.config import RankerConfig

pytestmark = pytest.mark.slow

BATCHING = {"max_batch_candidates": 1_000, "batch_wait_us": 10_000, "default_deadline_ms": 30_000}

COUNT, SUM = "exfm_ranker_batch_requests_count", "exfm_ranker_batch_requests_sum"

SHAPES: list[list[int] | None] = [None, [500], [1], [2, 0, 3], [200], [1, 1], [70], [40, 50]]
"""Candidates of each user; some are enough for a user to be met once."""

SETTINGS = [
    {},
    {"cache_mib": 1},
    pytest.param(
        {"device": "cuda"},
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")],
    ),
]

Start = Callable[..., tuple[Pod, list[Pod]]]


@pytest.fixture
def start(bundle: Path, pods: Pods) -> Start:
    """Return what starts a ranker that scores requests together, and two shards."""

    def start_servers(**settings: Any) -> tuple[Pod, list[Pod]]:
        shards = [pods.shard(bundle, shard) for shard in range(2)]
        addresses = [shard.lookup_address for shard in shards]
        ranker = pods.ranker(bundle, addresses, settings={**BATCHING, **settings})
        ranker.wait_until_ready()
        return ranker, shards

    return start_servers


def ask_at_once(ranker: Pod, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(lambda request: ask(ranker.rest_url, "students", request), requests))


def assert_scores(bundle: Path, requests: list[dict[str, Any]], answers: list[dict[str, Any]], **options: Any) -> None:
    for request, answer in zip(requests, answers, strict=True):
        for task, scores in offline_scores(bundle, request, **options).items():
            np.testing.assert_allclose(scores_of(answer)[task], scores, atol=1e-5)


def metric(ranker: Pod, name: str) -> float:
    return ranker.counted(f'{name}{{model="students"}}')


def test_requests_are_scored_alone_by_default() -> None:
    assert RankerConfig().max_batch_candidates == 0


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_requests_of_every_kind_are_scored_together_as_alone(
    start: Start, bundle: Path, settings: dict[str, Any]
) -> None:
    ranker, _ = start(**settings)
    requests = [make_request(num_candidates=shape) for shape in SHAPES]
    num_batches, num_scored = metric(ranker, COUNT), metric(ranker, SUM)
    for _ in range(5):  # a cache knows the items from the third time on
        assert_scores(bundle, requests, ask_at_once(ranker, requests))
    assert metric(ranker, SUM) - num_scored == 5 * len(requests)
    assert metric(ranker, COUNT) - num_batches < 5 * len(requests)


def test_what_stands_in_for_a_shard_is_scored_together_as_alone(start: Start, bundle: Path) -> None:
    ranker, shards = start(when_shard_fails="degrade", shard_budget=0.2)
    shards[1].server.process.kill()
    shards[1].exit_code()
    wait_for(lambda: bool(ranker.ask()["parameters"]["degraded"]))
    requests = 3 * [make_request(num_candidates=shape) for shape in SHAPES]
    num_batches, num_scored = metric(ranker, COUNT), metric(ranker, SUM)
    answers = ask_at_once(ranker, requests)
    assert metric(ranker, COUNT) - num_batches < metric(ranker, SUM) - num_scored == len(requests)
    assert all(answer["parameters"]["degraded"] for answer in answers)
    assert_scores(bundle, requests, answers, without=[1])


def test_a_request_that_is_refused_leaves_the_others_to_be_scored(start: Start, bundle: Path) -> None:
    ranker, _ = start()
    good = make_request(num_candidates=[70])
    bad = {"inputs": good["inputs"][1:]}
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, ranker.rest_url, "students", bad if at % 4 == 1 else good) for at in range(40)]
    assert [at for at, one in enumerate(asked) if one.exception()] == list(range(1, 40, 4))
    assert_scores(bundle, [good] * 30, [one.result() for one in asked if not one.exception()])


def test_a_traced_request_beside_others_is_timed_and_scored_as_alone(start: Start, bundle: Path) -> None:
    ranker, _ = start()
    requests = [make_request(num_candidates=[70 + index]) for index in range(12)]
    traced = [body | {"parameters": {"trace": True}} if index % 3 == 1 else body for index, body in enumerate(requests)]
    alone = 'exfm_ranker_batch_requests_bucket{le="1.0",model="students"}'
    before = ranker.counted(alone)
    answers = ask_at_once(ranker, traced)
    assert ranker.counted(alone) - before >= 4
    assert ["trace" in answer["parameters"] for answer in answers] == [index % 3 == 1 for index in range(12)]
    assert_scores(bundle, requests, answers)


FORMS = [
    {},
    {"sums": "rows"},
    pytest.param(
        {"device": "cuda"},
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")],
    ),
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_by_shards_that_look_requests_up_together_scores_are_the_models(
    bundle: Path, pods: Pods, form: dict[str, Any]
) -> None:
    shards = [pods.shard(bundle, shard, settings=BATCHING | form) for shard in range(2)]
    ranker = pods.ranker(bundle, [shard.lookup_address for shard in shards])
    ranker.wait_until_ready()
    requests = [make_request(num_candidates=shape) for shape in SHAPES]
    before = num_looked_up(shards[0])
    for _ in range(5):
        assert_scores(bundle, requests, ask_at_once(ranker, requests))
    _, num_requests = np.subtract(num_looked_up(shards[0]), before)
    assert num_requests == 5 * len(requests)


def num_looked_up(shard: Pod) -> tuple[float, float]:
    """Return how many batches shard 0 made, and of how many requests."""
    count, total = (
        shard.counted(f'exfm_shard_batch_requests_{of}{{model="students-shard-0"}}') for of in ("count", "sum")
    )
    return count, total


def test_a_request_that_a_shard_refuses_fails_alone_beside_others_by_grpc(bundle: Path, pods: Pods) -> None:
    shard = pods.shard(bundle, 0, settings=BATCHING)
    shard.wait_until_ready()
    manifest = BundleManifest.read(bundle)
    scorer = Scorer.load(bundle, manifest)
    bags = scorer.bags_for(encode_request(tensors_from_json(make_request()), manifest.feature_schema))[0]
    wrong = {net: replace(of_net, keys=np.full_like(of_net.keys, 2**64 - 1)) for net, of_net in bags.items()}
    before = num_looked_up(shard)
    answers: SimpleQueue[tuple[int, Any, Any]] = SimpleQueue()
    with tritonclient.grpc.InferenceServerClient(shard.grpc_address) as client:
        for place, of_one in enumerate(10 * [bags, wrong, bags, bags]):
            client.async_infer(
                "students-shard-0",
                bag_inputs(of_one),
                lambda result, error, place=place: answers.put((place, result, error)),
                model_version=manifest.bundle_id,
            )
        every = [answers.get(timeout=LONG_S) for _ in range(40)]
    errors = {place: str(error) for place, _, error in every if error}
    assert sorted(errors) == list(range(1, 40, 4))
    assert all("INVALID_ARGUMENT" in error for error in errors.values())
    assert len({result.as_numpy("item.sums").tobytes() for _, result, error in every if not error}) == 1
    num_batches, num_requests = np.subtract(num_looked_up(shard), before)
    assert num_batches < num_requests == 30


def bag_inputs(bags: Mapping[Net, LookupBags]) -> list[tritonclient.grpc.InferInput]:
    inputs = []
    for net, of_net in bags.items():
        for name, datatype, values in (("keys", "UINT64", of_net.keys), ("lengths", "INT32", of_net.lengths_LB)):
            tensor = tritonclient.grpc.InferInput(f"{net}.{name}", values.shape, datatype)
            tensor.set_data_from_numpy(values)
            inputs.append(tensor)
    return inputs
