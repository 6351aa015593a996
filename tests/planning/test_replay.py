"""A request log replayed: keys of each shard as the ranker would send them."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from exfm.artifact.plan import ShardPlan
from exfm.bundling.counting import statistics_of_log
from exfm.bundling.replay import WARMUP_SHARE, logged_requests, simulate_log
from exfm.bundling.request_log import MAX_REQUESTS, LoggedRequests
from exfm.errors import ConfigError, DataError, PlanError
from exfm.features.batch import encode
from exfm.features.impressions import Answered
from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm.planning.simulation.simulator import Load, simulate_requests
from exfm.schema import NETS, Schema
from logged_requests import plan_with_hot_rows, random_requests, write_log

NUM_REQUESTS = 300


@pytest.fixture
def written(schema: Schema) -> list[list[Answered]]:
    return [random_requests(schema, 200, seed=0, first_ns=10**9), random_requests(schema, 100, seed=1, first_ns=0)]


@pytest.fixture
def log(tmp_path: Path, schema: Schema, written: list[list[Answered]]) -> LoggedRequests:
    return LoggedRequests.find(write_log(tmp_path / "log", schema, *([file] for file in written)), schema)


@pytest.fixture
def split_plan(schema: Schema) -> ShardPlan:
    return plan_with_hot_rows(schema)


def test_every_key_of_a_request_falls_on_one_shard(
    log: LoggedRequests, written: list[list[Answered]], schema: Schema, split_plan: ShardPlan
) -> None:
    counted = statistics_of_log(log)
    requests = logged_requests(log, split_plan, hottest=counted.hottest)
    assert len(requests.arrivals_s) == NUM_REQUESTS
    assert (np.diff(requests.arrivals_s) >= 0).all()
    keys = sum(requests.keys[net].sum() for net in NETS)
    answered = [encode(one.raw.columns, schema, num_candidates=one.raw.num_candidates) for one in chain(*written)]
    assert keys == sum(len(bags.keys) for one in answered for net in NETS for bags in one.of(net).bags.values())


def test_hot_rows_take_keys_from_row_slices(log: LoggedRequests, split_plan: ShardPlan) -> None:
    counted = statistics_of_log(log)
    hot = logged_requests(log, split_plan, hottest=counted.hottest)
    others = {table: rows[::-1] for table, rows in counted.hottest.items()}
    cold = logged_requests(log, split_plan, hottest=others)
    by_rows = [sum(requests.keys[net][:, :3].sum() for net in NETS) for requests in (hot, cold)]
    assert by_rows[0] < by_rows[1]


def test_a_log_costs_what_its_statistics_do(log: LoggedRequests, split_plan: ShardPlan) -> None:
    """Keys of its own and keys drawn around the statistics are as many in the mean, so CPU times are alike."""
    counted = statistics_of_log(log)
    requests = logged_requests(log, split_plan, hottest=counted.hottest)
    paced = requests.paced(100.0)
    assert (len(paced.arrivals_s) - 1) / paced.arrivals_s[-1] == pytest.approx(100.0)
    load = Load(requests_per_s=100.0, num_requests=len(paced.arrivals_s), num_warmup=0)
    own, drawn = (
        simulate_requests(replayed, split_plan, counted.statistics, DEFAULT_COSTS, load, rankers=1, seed=0)
        for replayed in (paced, type(paced)(paced.arrivals_s, paced.candidates))
    )
    assert own.shard_utilisation == pytest.approx(drawn.shard_utilisation, rel=0.05)
    assert own.ranker_cpu_ms == pytest.approx(drawn.ranker_cpu_ms, rel=0.05)


def test_a_log_is_simulated_at_the_given_rate(log: LoggedRequests, split_plan: ShardPlan) -> None:
    counted = statistics_of_log(log)
    slow, fast = (
        simulate_log(
            log,
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


def test_a_singular_plan_and_a_short_log_are_refused(tmp_path: Path, schema: Schema, split_plan: ShardPlan) -> None:
    write_log(tmp_path / "short", schema, [random_requests(schema, 50, seed=0)])
    log = LoggedRequests.find(tmp_path / "short", schema)
    counted = statistics_of_log(log)
    singular = split_plan.model_copy(update={"strategy": "singular"})
    for plan, error in ((singular, PlanError), (split_plan, DataError)):
        with pytest.raises(error, match="singular" if error is PlanError else "50 requests"):
            simulate_log(log, plan, counted, DEFAULT_COSTS, requests_per_s=10.0, rankers=1, seed=0)


def test_of_a_log_that_is_too_long_the_newest_requests_come(
    log: LoggedRequests, written: list[list[Answered]], schema: Schema, split_plan: ShardPlan, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    newest = LoggedRequests.find(write_log(tmp_path / "newest", schema, [written[0]]), schema)
    monkeypatch.setattr("exfm.bundling.request_log.MAX_REQUESTS", 200)
    counted = statistics_of_log(log)
    cut, whole = (
        simulate_log(one, split_plan, counted, DEFAULT_COSTS, requests_per_s=50.0, rankers=1, seed=0)
        for one in (LoggedRequests.find(tmp_path / "log", schema), newest)
    )
    assert cut == whole


def test_as_many_requests_are_replayed_as_a_load_allows() -> None:
    num_warmup = int(WARMUP_SHARE * MAX_REQUESTS)
    Load(requests_per_s=1.0, num_requests=MAX_REQUESTS - num_warmup, num_warmup=num_warmup)
    more = MAX_REQUESTS + 1
    with pytest.raises(ValidationError, match="num_requests"):
        Load(requests_per_s=1.0, num_requests=more - int(WARMUP_SHARE * more), num_warmup=0)


def test_a_rate_that_no_load_has_is_refused(log: LoggedRequests, split_plan: ShardPlan) -> None:
    counted = statistics_of_log(log)
    with pytest.raises(ConfigError, match="the load: requests_per_s: expected at most 1,000,000,000"):
        simulate_log(log, split_plan, counted, DEFAULT_COSTS, requests_per_s=1e10, rankers=1, seed=0)
