"""Calibration on what a simulator with known prices gave: what was put in must come out."""

import numpy as np
import pytest

from exfm.bundling.config import ShardingConfig
from exfm.planning.cost_model.costs import DEFAULT_COSTS, CallPrices
from exfm.planning.planner import make_plan
from exfm.planning.simulation.simulator import Requests
from exfm_bench.calibration import Calibration, ClientCosts, calibrate
from exfm_bench.measurement import NUM_WARMUP, Measured, Point, Round
from exfm_bench.shared_cores import replay_requests
from exfm_bench.workload import GENERATED

PRIOR = DEFAULT_COSTS.model_copy(
    update={
        "ranker_request_us": 530.0,
        "ranker_candidate_us": 3.5,
        "ranker": CallPrices(call_us=96.0, net_us=18.0, lookup_us=24.0, bag_ns=0.0, key_ns=0.9, byte_ns=0.33),
        "shard": CallPrices(call_us=216.0, net_us=57.0, lookup_us=24.5, bag_ns=2.2, key_ns=8.7, byte_ns=0.46),
        "read_byte_ns": 0.034,
        "network_latency_us": 65.0,
        "spread": 0.18,
        "ranker_cold_us": 2_480.0,
        "shard_cold_us": 1_160.0,
        "cooling_ms": 10.0,
    }
)
"""Costs of another machine, from which the fit starts; what few points leave open stays near them."""

TRUTH = Calibration(
    PRIOR.model_copy(
        update={
            "ranker_request_us": 1_200.0,
            "ranker_candidate_us": 3.0,
            "ranker": CallPrices(call_us=150, net_us=30, lookup_us=20, bag_ns=15, key_ns=10, byte_ns=0.5),
            "shard": CallPrices(call_us=350, net_us=40, lookup_us=30, bag_ns=30, key_ns=40, byte_ns=0.2),
            "network_latency_us": 120.0,
            "spread": 0.25,
            "ranker_cold_us": 900.0,
            "shard_cold_us": 400.0,
            "cooling_ms": 8.0,
        }
    ),
    ClientCosts(request_us=300.0, candidate_us=0.5, cold_us=150.0),
    beside_share=0.13,
)


def measured_of(strategy: str, num_shards: int, *, candidates: int, requests_per_s: float, seed: int) -> Measured:
    """Return what the simulator with the true prices gives at a point."""
    config = ShardingConfig.parse({"strategy": strategy, "num_shards": num_shards}, source="a test")
    statistics = GENERATED.statistics(candidates=candidates)
    point = Point(
        strategy, make_plan(GENERATED.schema(), statistics, config, DEFAULT_COSTS), candidates, requests_per_s, 0.3
    )
    arrivals_s = point.arrivals_s(num_requests=1_000, seed=seed)
    replayed = replay_requests(
        Requests(arrivals_s, np.full(len(arrivals_s), float(candidates))),
        point.plan,
        statistics,
        TRUTH.costs,
        TRUTH.shared_cores(2, candidates=candidates),
        seed=seed,
    )
    one = Round(
        arrivals_s=arrivals_s,
        latency_ms=replayed.latency_ms[NUM_WARMUP:],
        ranker_cpu_ms=replayed.ranker_cpu_ms,
        shard_cpu_ms=replayed.shard_cpu_ms,
        client_cpu_ms=replayed.client_cpu_ms,
        other_cores=0.0,
        num_failed=0,
    )
    return Measured(point, [one])


@pytest.mark.slow
def test_what_a_calibrated_model_was_not_shown_it_predicts() -> None:
    shown = [
        measured_of(strategy, num_shards, candidates=candidates, requests_per_s=rate, seed=seed)
        for seed, (strategy, num_shards, candidates, rate) in enumerate(
            (strategy, num_shards, candidates, rate)
            for strategy, num_shards in (("one-shard", 1), ("capacity-balanced", 4))
            for candidates in (20, 120)
            for rate in (40.0, 120.0)
        )
    ]
    calibration = calibrate(shown, prior=PRIOR, cores=2, measured="in a test", num_trials=12)
    other = measured_of("nsbp", 2, candidates=60, requests_per_s=160.0, seed=100)
    predicted = calibration.predict(other, cores=2)
    assert predicted.cpu_ms == pytest.approx(other.ranker_cpu_ms + other.shard_cpu_ms.sum(), rel=0.05)
    assert predicted.p50_ms == pytest.approx(other.quantile_ms(0.5), rel=0.05)
    assert predicted.p99_ms == pytest.approx(other.quantile_ms(0.99), rel=0.12)
