import numpy as np
import numpy.typing as npt
import pytest

from exfm.planning.simulation.queues import Servers, Timings, replay
from exfm_bench.shared_cores import SharedCores, replay_on_shared_cores

Floats = npt.NDArray[np.float64]


def timings_of(encode_s: Floats, *, num_calls: int = 0, **more: Floats | float) -> Timings:
    """Return jobs that take no time, but for those given."""
    none_N, none_NC = np.zeros(len(encode_s)), np.zeros((len(encode_s), num_calls))
    defaults = Timings(encode_s, none_N, none_NC, none_NC, none_NC, none_NC, none_NC, 0.0)
    return defaults._replace(**more)


def servers_of(num_requests: int, *, rankers: int = 1, num_calls: int = 0, replicas: int = 1) -> Servers:
    """Return a shard for each call; requests take turns among rankers."""
    return Servers(
        num_rankers=rankers,
        ranker_of=np.arange(num_requests) % rankers,
        shard_of_call=np.arange(num_calls),
        replicas=np.full(num_calls, replicas),
        first_turn=np.zeros((rankers, num_calls), dtype=np.int64),
    )


def poisson(num_requests: int, *, rate: float, seed: int = 0) -> Floats:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, size=num_requests))


def lindley(arrivals_s: Floats, service_s: Floats) -> Floats:
    """Return when a single server in order of arrival ends each job."""
    before = np.concatenate(([0], np.cumsum(service_s)[:-1]))
    return np.maximum.accumulate(arrivals_s - before) + before + service_s


def test_a_server_works_in_order_of_arrival() -> None:
    arrivals_s = poisson(5_000, rate=0.8)
    service_s = np.random.default_rng(1).exponential(size=5_000)
    timings = timings_of(np.zeros(5_000), num_calls=1, serve_call_s=service_s[:, None])
    answered_s = replay(arrivals_s, timings, servers_of(5_000, num_calls=1)).answered_s
    assert answered_s == pytest.approx(lindley(arrivals_s, service_s))


def test_the_wait_for_a_constant_service_time_is_that_of_queueing_theory() -> None:
    """M/D/1: mean wait = rho / (2 (1 - rho)) services."""
    arrivals_s = poisson(200_000, rate=0.7)
    timings = timings_of(np.zeros(200_000), num_calls=1, serve_call_s=np.ones((200_000, 1)))
    answered_s = replay(arrivals_s, timings, servers_of(200_000, num_calls=1)).answered_s
    assert (answered_s - arrivals_s - 1).mean() == pytest.approx(0.7 / (2 * 0.3), rel=0.03)


@pytest.mark.slow  # each process compiles the benchmark's simulation
def test_one_shared_core_is_one_server_for_all() -> None:
    """M/G/1 in order of arrival: mean wait = rate E[S^2] / (2 (1 - rho))."""
    arrivals_s = poisson(200_000, rate=0.6)
    service_s = np.random.default_rng(1).gamma(2.0, 0.5, size=200_000)
    servers = servers_of(200_000, rankers=1)
    answered_s = replay_on_shared_cores(arrivals_s, timings_of(service_s), servers, SharedCores(1)).answered_s
    assert (answered_s - arrivals_s).mean() == pytest.approx(1 + 0.6 * 1.5 / (2 * 0.4), rel=0.03)


@pytest.mark.slow
def test_a_shared_core_goes_in_turn_to_those_that_have_work() -> None:
    """Two rankers with two requests each, on one core: each does one, then gives way, for its turn is over."""
    servers = servers_of(4, rankers=2)
    timings = timings_of(np.zeros(4), score_s=np.ones(4))
    by_turns = replay_on_shared_cores(np.zeros(4), timings, servers, SharedCores(1, turn_s=0.5)).answered_s
    in_one_go = replay_on_shared_cores(np.zeros(4), timings, servers, SharedCores(1, turn_s=10.0)).answered_s
    assert by_turns.tolist() == pytest.approx([1, 2, 3, 4])
    assert in_one_go.tolist() == pytest.approx([1, 3, 2, 4])


@pytest.mark.slow
def test_enough_shared_cores_are_cores_of_ones_own() -> None:
    generator = np.random.default_rng(0)
    arrivals_s = poisson(3_000, rate=0.5)
    timings = timings_of(
        generator.exponential(0.2, size=3_000),
        num_calls=3,
        score_s=generator.exponential(0.3, size=3_000),
        send_call_s=np.full((3_000, 3), 0.02),
        serve_call_s=generator.exponential(0.5, size=(3_000, 3)),
        receive_answer_s=np.full((3_000, 3), 0.03),
        call_latency_s=np.full((3_000, 3), 0.1),
        answer_latency_s=np.full((3_000, 3), 0.2),
        client_latency_s=0.05,
    )
    own = replay(arrivals_s, timings, servers_of(3_000, num_calls=3)).answered_s
    servers = servers_of(3_000, num_calls=3)
    shared = replay_on_shared_cores(arrivals_s, timings, servers, SharedCores(5)).answered_s
    assert shared == pytest.approx(own)


def test_a_lone_request_takes_the_longest_of_its_calls() -> None:
    timings = timings_of(
        np.array([1.0]),
        num_calls=2,
        score_s=np.array([2.0]),
        send_call_s=np.array([[0.1, 0.1]]),
        serve_call_s=np.array([[5.0, 3.0]]),
        receive_answer_s=np.array([[0.2, 0.2]]),
        call_latency_s=np.array([[0.5, 0.5]]),
        answer_latency_s=np.array([[0.25, 0.25]]),
        client_latency_s=0.125,
    )
    answered_s = replay(np.array([10.0]), timings, servers_of(1, num_calls=2)).answered_s
    assert answered_s.tolist() == pytest.approx([10 + 0.125 + 1 + 0.1 + 0.5 + 5 + 0.25 + 0.2 + 2 + 0.125])


def test_the_servers_of_a_shard_get_their_turns() -> None:
    timings = timings_of(np.zeros(4), num_calls=1, serve_call_s=np.ones((4, 1)))
    answered_s = replay(np.zeros(4), timings, servers_of(4, num_calls=1, replicas=2)).answered_s
    assert answered_s.tolist() == pytest.approx([1, 1, 2, 2])


@pytest.mark.slow
def test_a_client_on_shared_cores_takes_its_time() -> None:
    cores = SharedCores(1, client_s=0.5, cold_client_s=0.25)
    replayed = replay_on_shared_cores(np.zeros(1), timings_of(np.ones(1)), servers_of(1), cores)
    assert replayed.answered_s.tolist() == pytest.approx([1.75])
    assert replayed.busy_s.tolist() == pytest.approx([1.0, 0.75])


def test_a_server_is_the_slower_the_longer_ago_its_last_request_came() -> None:
    timings = timings_of(np.ones(3), cold_encode_s=0.5)
    replayed = replay(np.array([0.0, 1.0, 6.0]), timings, servers_of(3)._replace(cooling_s=2.0))
    cold, after_one_and_a_half_s, after_four_and_a_half_s = 1.5, 1.5 - 0.5 * np.exp(-0.75), 1.5 - 0.5 * np.exp(-2.25)
    assert replayed.answered_s.tolist() == pytest.approx(
        [cold, cold + after_one_and_a_half_s, 6 + after_four_and_a_half_s]
    )
    assert replayed.busy_s.tolist() == pytest.approx([cold + after_one_and_a_half_s + after_four_and_a_half_s])


@pytest.mark.slow
def test_threads_beside_an_event_loop_take_cores_but_no_turn() -> None:
    timings = timings_of(np.ones(1), score_s=np.ones(1))
    alone, crowded = SharedCores(2, beside_share=0.25), SharedCores(1, beside_share=0.25, turn_s=0.1)
    for cores, answered_s in ((alone, 1.5), (crowded, 1.75)):
        replayed = replay_on_shared_cores(np.zeros(1), timings, servers_of(1), cores)
        assert replayed.answered_s.tolist() == pytest.approx([answered_s])
