import pytest

from exfm.bench.slopes import measure_slopes
from exfm.sharding.costs import DEFAULT_COSTS


@pytest.mark.slow
def test_prices_of_lookups_and_bytes_are_found_and_calls_keep_theirs() -> None:
    slopes = measure_slopes(seed=0)
    assert 1 < slopes.shard.lookup_us < 1_000
    assert 1 < slopes.ranker.lookup_us < 1_000
    assert 0 < slopes.shard.key_ns < 1_000
    assert 0 < slopes.shard.byte_ns < 100
    costs = slopes.put_into(DEFAULT_COSTS)
    assert costs.shard.key_ns == slopes.shard.key_ns
    assert costs.shard.call_us == DEFAULT_COSTS.shard.call_us
