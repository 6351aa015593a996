"""Where a request's time went: what is told adds up, and says what was spent where."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exfm.errors import RequestError, ServingError
from exfm.serving.profiler.breakdown import Breakdown, Layer, LayerTime, ShardBreakdown
from exfm.serving.profiler.profiler import Profiler, awaited, timed, wants_breakdown
from exfm.serving.profiler.spans import is_sampled, read_trace_note, trace_note

MS = 1_000_000

LAYERS = st.lists(st.sampled_from(list(Layer)), max_size=12)


def compute(ms: float) -> None:
    """Take CPU time of this thread."""
    end_ns = time.thread_time_ns() + int(ms * MS)
    while time.thread_time_ns() < end_ns:
        pass


@pytest.mark.parametrize(
    "headers", [{}, {"traceparent": "00-1-2-01"}, {"traceparent": "00-1-2-01", "tracestate": "a=b,c=d"}], ids=len
)
def test_a_streams_note_brings_a_traces_headers(headers: dict[str, str]) -> None:
    assert {name: value for name, value in read_trace_note(trace_note(headers)) if value} == headers


def test_a_note_that_holds_traceparent_alone_is_that_header() -> None:
    assert list(read_trace_note(b"00-1-2-01")) == [("traceparent", "00-1-2-01")]


def test_a_trace_is_sampled_whose_flags_say_so() -> None:
    flags = {flag: is_sampled({"traceparent": f"00-{'1' * 32}-{'2' * 16}-{flag}"}) for flag in ("00", "01", "02", "03")}
    assert flags == {"00": False, "01": True, "02": False, "03": True}
    assert not is_sampled({})


@given(outer=LAYERS, inner=LAYERS)
def test_layers_and_the_rest_are_the_whole_however_blocks_lie_in_each_other(
    outer: list[Layer], inner: list[Layer]
) -> None:
    profiler = Profiler()
    for layer in outer:
        with profiler.measure(layer):
            for other in inner:
                with profiler.measure(other):
                    pass
    told = profiler.read()
    assert set(told.layers) == set(outer) | (set(inner) if outer else set())
    assert sum(spent.wall_ns for spent in told.layers.values()) + told.rest_ns == told.total_ns
    assert told.rest_ns >= 0
    assert all(spent.wall_ns >= 0 and spent.cpu_ns >= 0 for spent in told.layers.values())


def test_a_layer_that_computes_takes_cpu_time_and_one_that_waits_none() -> None:
    async def request() -> Breakdown:
        profiler = Profiler()
        with profiler.measure(Layer.ENCODE):
            compute(5)
        with profiler.measure(Layer.WAIT):
            await asyncio.sleep(0.02)
            with profiler.measure(Layer.DESERIALIZE_ANSWERS):
                compute(5)
        return profiler.read()

    told = asyncio.run(request())
    assert told.layers[Layer.ENCODE].cpu_ns >= 5 * MS
    assert told.layers[Layer.WAIT].cpu_ns == 0
    assert told.layers[Layer.WAIT].wall_ns >= 20 * MS
    assert told.layers[Layer.DESERIALIZE_ANSWERS].cpu_ns >= 5 * MS
    assert told.total_ns >= 30 * MS


def test_a_layer_that_fails_is_timed_too() -> None:
    profiler = Profiler()

    def fail() -> None:
        with profiler.measure(Layer.ENCODE):
            compute(1)
            raise RequestError("wrong")

    with pytest.raises(RequestError):
        fail()
    assert profiler.read().layers[Layer.ENCODE].cpu_ns >= MS


def test_a_frame_that_waited_was_in_the_queue() -> None:
    came_ns = time.perf_counter_ns() - 7 * MS
    told = Profiler.since(came_ns).read()
    assert told.layers[Layer.QUEUE].wall_ns >= 7 * MS
    assert told.layers[Layer.QUEUE].cpu_ns == 0
    assert told.layers[Layer.QUEUE].wall_ns + told.rest_ns == told.total_ns


def test_what_a_shard_does_not_account_for_is_network() -> None:
    request = Profiler()
    with awaited(request, 3):
        time.sleep(0.005)
        told = Profiler().read().to_json()
    request.reported(3, told.encode())
    of_shard = request.read().shards[3]
    assert of_shard.network_ns == of_shard.wall_ns - of_shard.server.total_ns
    assert of_shard.network_ns >= 5 * MS


def test_what_is_told_comes_as_it_was() -> None:
    server = Breakdown(total_ns=9, process_cpu_ns=5, layers={Layer.EMBEDDING: LayerTime(wall_ns=4, cpu_ns=3)})
    told = Breakdown(total_ns=20, process_cpu_ns=8, layers={}, shards={1: ShardBreakdown(wall_ns=12, server=server)})
    assert Breakdown.from_json(told.to_json()) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"total_ns":-1,"process_cpu_ns":0,"layers":{}}',
        '{"total_ns":1,"process_cpu_ns":0,"layers":{"encode":{"wall_ns":2,"cpu_ns":0}}}',
        '{"total_ns":1,"process_cpu_ns":0,"layers":{"tea":{"wall_ns":0,"cpu_ns":0}}}',
    ],
)
def test_what_does_not_add_up_or_is_unknown_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="a trace: "):
        Breakdown.from_json(text)


def test_a_request_that_is_not_traced_is_not_timed() -> None:
    with timed(None, Layer.ENCODE) as nothing:
        assert nothing is None
    with awaited(None, 3) as nothing:
        assert nothing is None


def test_a_shard_that_tells_nothing_is_named() -> None:
    request = Profiler()
    with awaited(request, 3):
        request.reported(3, b"")
    with pytest.raises(ServingError, match="shard 3 returned a malformed breakdown"):
        request.read()


@pytest.mark.parametrize("value", [1, "true", [True]])
def test_the_parameter_is_true_or_false(value: object) -> None:
    assert (wants_breakdown(True), wants_breakdown(False), wants_breakdown(None)) == (True, False, False)
    with pytest.raises(RequestError, match=r"parameter 'trace' is .*, expected true or false"):
        wants_breakdown(value)
