"""Prices of lookups, bags, keys and bytes, measured here: not how much they are, but that they are prices."""

import pytest

from exfm.planning.cost_model.costs import DEFAULT_COSTS
from exfm_bench.slopes import SCENARIOS, measure_slopes


@pytest.mark.slow
def test_prices_are_measured_at_both_ends_of_a_call_and_those_of_calls_stay() -> None:
    slopes = measure_slopes(seed=0, scenarios=SCENARIOS[:9])
    for end in (slopes.ranker, slopes.shard):
        prices = (end.lookup_us, end.bag_ns, end.key_ns, end.byte_ns)
        assert all(price >= 0 for price in prices)
        assert any(price > 0 for price in prices)
        assert end.lookup_us < 10_000
    costs = slopes.put_into(DEFAULT_COSTS)
    assert (costs.shard.call_us, costs.shard.net_us) == (DEFAULT_COSTS.shard.call_us, DEFAULT_COSTS.shard.net_us)
    assert (costs.shard.lookup_us, costs.ranker.key_ns) == (slopes.shard.lookup_us, slopes.ranker.key_ns)
    assert costs.read_byte_ns == slopes.read_byte_ns
