"""The comparison of transports: all of them carry what is asked for, and who cannot is named."""

from dataclasses import replace

import pytest

from exfm.bench.transports.bench import choose, measured
from exfm.bench.transports.carriers import CARRIERS


@pytest.mark.slow
def test_every_transport_carries_an_answer_and_the_first_is_measured_twice() -> None:
    found, missing = measured(asked_bytes=5_000, answered_bytes=300_000, num_blocks=6)
    assert not missing
    assert len(found) == len(CARRIERS) + 1
    assert found[1].name == "exfm's streams again (A/A)"
    for series in found:
        assert [block.num_requests for block in series.blocks] == [105] * 6
        for block in series.blocks:
            assert 0 < block.p50_ms <= block.p99_ms
            assert 0 < block.shards_cpu_ms < block.cpu_ms


def test_a_transport_that_is_not_installed_is_left_out_and_named() -> None:
    titles, missing = choose({**CARRIERS, "pigeons": replace(CARRIERS["zmq"], title="Pigeons", package="no-pigeons")})
    assert list(titles) == list(CARRIERS)
    assert missing == ["Pigeons: left out, as no-pigeons is not installed"]
