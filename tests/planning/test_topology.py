"""The number of servers for a load."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from made_models import COSTS, shards

from exfm.planning.topology import num_servers

CPU_S = st.floats(min_value=1e-5, max_value=0.2)


def busy(warm_s: float, cold_s: float, cooling_s: float, *, per_server_s: float) -> float:
    """Return the busy part of the time of a server whose requests come regularly, which keeps it coldest."""
    return per_server_s * (warm_s - cold_s * np.expm1(-1 / (per_server_s * cooling_s)))


@given(
    warm_s=CPU_S,
    cold_s=st.floats(min_value=0, max_value=0.05),
    cooling_ms=st.floats(min_value=0.1, max_value=1000),
    requests_per_s=st.floats(min_value=1, max_value=1e6),
    utilisation=st.floats(min_value=0.05, max_value=0.95),
)
@example(warm_s=1e-5, cold_s=0.05, cooling_ms=100.0, requests_per_s=1e6, utilisation=0.5)  # nearly a double root
def test_servers_are_the_fewest_within_the_utilisation_though_they_cool(
    warm_s: float, cold_s: float, cooling_ms: float, requests_per_s: float, utilisation: float
) -> None:
    costs = COSTS.model_copy(update={"cooling_ms": cooling_ms})
    config = shards(1, memory_bytes=2**20, demand={"requests_per_s": requests_per_s})
    [found] = num_servers(np.array([warm_s]), cold_s * 1e6, config, costs, utilisation=utilisation).tolist()

    def busy_with(num_servers: int) -> float:
        return busy(warm_s, cold_s, cooling_ms * 1e-3, per_server_s=requests_per_s / num_servers)

    assert busy_with(found) <= utilisation * (1 + 1e-8)
    assert found == 1 or busy_with(found - 1) > utilisation * (1 - 1e-8)


def test_servers_that_do_not_cool_share_the_work_evenly() -> None:
    config = shards(1, memory_bytes=2**20, demand={"requests_per_s": 1000.0})
    found = num_servers(np.array([0.0007, 0.00071, 0.0]), 0.0, config, COSTS, utilisation=0.7)
    assert found.tolist() == [1, 2, 1]
