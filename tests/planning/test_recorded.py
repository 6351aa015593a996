"""A trace replayed: keys of each shard as the ranker would send them."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from recorded_requests import plan_with_hot_rows, random_requests

from exfm.artifact.plan import ShardPlan
from exfm.artifact.trace import Trace, TraceWriter
from exfm.errors import ConfigError, DataError, PlanError
from exfm.planning.pricing.costs import DEFAULT_COSTS
from exfm.planning.simulation.simulator import Load, replay_requests
from exfm.schema import NETS, Schema
from exfm.sharding.counting import statistics_of_trace
from exfm.sharding.recorded import MAX_REPLAYED, WARMUP_SHARE, recorded_requests, simulate_trace

NUM_REQUESTS = 300


@pytest.fixture
def trace_folder(tmp_path: Path, schema: Schema) -> Path:
    writer = TraceWriter(tmp_path, model="students", bundle_id="b" * 64, sampling_rate=1.0, schema=schema)
    writer.add(random_requests(schema, 200, seed=0, first_ns=10**9))
    writer.add(random_requests(schema, 100, seed=1, first_ns=0))
    return tmp_path


@pytest.fixture
def split_plan(schema: Schema) -> ShardPlan:
    return plan_with_hot_rows(schema)


def test_every_key_of_a_request_falls_on_one_shard(trace_folder: Path, schema: Schema, split_plan: ShardPlan) -> None:
    counted = statistics_of_trace(trace_folder, schema)
    requests = recorded_requests(Trace.read(trace_folder), schema, split_plan, hottest=counted.hottest)
    assert len(requests.arrivals_s) == NUM_REQUESTS
    assert (np.diff(requests.arrivals_s) >= 0).all()
    keys = sum(requests.keys[net].sum() for net in NETS)
    recorded = [random_requests(schema, 200, seed=0), random_requests(schema, 100, seed=1)]
    assert keys == sum(len(of_feature) for block in recorded for of_feature in block.keys.values())


def test_hot_rows_take_keys_from_row_slices(trace_folder: Path, schema: Schema, split_plan: ShardPlan) -> None:
    counted = statistics_of_trace(trace_folder, schema)
    hot = recorded_requests(Trace.read(trace_folder), schema, split_plan, hottest=counted.hottest)
    others = {table: rows[::-1] for table, rows in counted.hottest.items()}
    cold = recorded_requests(Trace.read(trace_folder), schema, split_plan, hottest=others)
    by_rows = [sum(requests.keys[net][:, :3].sum() for net in NETS) for requests in (hot, cold)]
    assert by_rows[0] < by_rows[1]


def test_a_trace_costs_what_its_statistics_do(trace_folder: Path, schema: Schema, split_plan: ShardPlan) -> None:
    """Keys of its own and keys drawn around the statistics are as many in the mean, so CPU times are alike."""
    counted = statistics_of_trace(trace_folder, schema)
    requests = recorded_requests(Trace.read(trace_folder), schema, split_plan, hottest=counted.hottest)
    paced = requests.paced(100.0)
    assert (len(paced.arrivals_s) - 1) / paced.arrivals_s[-1] == pytest.approx(100.0)
    own, drawn = (
        replay_requests(
            replayed,
            split_plan,
            counted.statistics,
            DEFAULT_COSTS,
            rankers=1,
            shared_cores=0,
            client_us=0.0,
            client_cold_us=0.0,
            seed=0,
        )
        for replayed in (paced, type(paced)(paced.arrivals_s, paced.candidates))
    )
    assert own.shard_cpu_ms == pytest.approx(drawn.shard_cpu_ms, rel=0.05)
    assert own.ranker_cpu_ms == pytest.approx(drawn.ranker_cpu_ms, rel=0.05)


def test_a_trace_is_simulated_at_the_rate_asked_for(trace_folder: Path, schema: Schema, split_plan: ShardPlan) -> None:
    counted = statistics_of_trace(trace_folder, schema)
    slow, fast = (
        simulate_trace(
            Trace.read(trace_folder),
            schema,
            split_plan,
            counted,
            DEFAULT_COSTS,
            requests_per_s=rate,
            rankers=2,
            seed=0,
        )
        for rate in (10.0, 400.0)
    )
    assert fast.ranker_utilisation > 10 * slow.ranker_utilisation
    assert fast.cpu_ms < slow.cpu_ms  # warm


def test_a_singular_plan_and_a_short_trace_are_refused(tmp_path: Path, schema: Schema, split_plan: ShardPlan) -> None:
    writer = TraceWriter(tmp_path / "short", model="students", bundle_id="b" * 64, sampling_rate=1.0, schema=schema)
    writer.add(random_requests(schema, 50, seed=0))
    counted, trace = statistics_of_trace(tmp_path / "short", schema), Trace.read(tmp_path / "short")
    singular = split_plan.model_copy(update={"strategy": "singular"})
    for plan, error in ((singular, PlanError), (split_plan, DataError)):
        with pytest.raises(error, match="singular" if error is PlanError else "50 requests"):
            simulate_trace(trace, schema, plan, counted, DEFAULT_COSTS, requests_per_s=10.0, rankers=1, seed=0)


def test_of_a_trace_that_is_too_long_the_newest_requests_come(
    trace_folder: Path, tmp_path_factory: pytest.TempPathFactory, schema: Schema, split_plan: ShardPlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    newest = tmp_path_factory.mktemp("newest")
    writer = TraceWriter(newest, model="students", bundle_id="b" * 64, sampling_rate=1.0, schema=schema)
    writer.add(random_requests(schema, 200, seed=0, first_ns=10**9))
    monkeypatch.setattr("exfm.sharding.recorded.MAX_REPLAYED", 200)
    counted = statistics_of_trace(trace_folder, schema)
    cut, whole = (
        simulate_trace(
            Trace.read(folder), schema, split_plan, counted, DEFAULT_COSTS, requests_per_s=50.0, rankers=1, seed=0
        )
        for folder in (trace_folder, newest)
    )
    assert cut.p99_ms == pytest.approx(whole.p99_ms)
    assert cut.cpu_ms == pytest.approx(whole.cpu_ms)


def test_as_many_requests_are_replayed_as_a_load_allows() -> None:
    num_warmup = int(WARMUP_SHARE * MAX_REPLAYED)
    Load(requests_per_s=1.0, num_requests=MAX_REPLAYED - num_warmup, num_warmup=num_warmup)
    more = MAX_REPLAYED + 1
    with pytest.raises(ValidationError, match="num_requests"):
        Load(requests_per_s=1.0, num_requests=more - int(WARMUP_SHARE * more), num_warmup=0)


def test_a_rate_that_no_load_has_is_refused(trace_folder: Path, schema: Schema, split_plan: ShardPlan) -> None:
    counted, trace = statistics_of_trace(trace_folder, schema), Trace.read(trace_folder)
    with pytest.raises(ConfigError, match="the load: requests_per_s: Input should be less than or equal to 1000000000"):
        simulate_trace(trace, schema, split_plan, counted, DEFAULT_COSTS, requests_per_s=1e10, rankers=1, seed=0)
