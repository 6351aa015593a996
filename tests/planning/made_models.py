"""Models made up for the planner's tests."""

from hypothesis import strategies as st

from exfm.artifact.plan import ShardPlan
from exfm.planning.config import Demand, ShardingConfig
from exfm.planning.cost_model.costs import CallPrices, CostModel
from exfm.planning.statistics import HotRows, Statistics, TableStatistics
from exfm.schema import Schema
from exfm_bench.large_models import schema_of

COSTS = CostModel(
    measured="made up for tests",
    ranker_request_us=900.0,
    ranker_candidate_us=5.0,
    ranker=CallPrices(call_us=250.0, net_us=20.0, lookup_us=12.0, bag_ns=10.0, key_ns=15.0, byte_ns=0.3),
    shard=CallPrices(call_us=450.0, net_us=25.0, lookup_us=25.0, bag_ns=20.0, key_ns=30.0, byte_ns=0.3),
    read_byte_ns=0.1,
    ranker_before_share=0.6,
    network_latency_us=50.0,
    network_byte_ns=0.8,
    spread=0.15,
)

CANDIDATES = 50.0


def table(
    name: str,
    *,
    rows: int = 100,
    dim: int = 4,
    net: str = "item",
    pooling: float = 1.0,
    hot: tuple[int, float] | None = None,
) -> TableStatistics:
    """Return one table; `hot`: so many of its rows take this share of its keys."""
    return TableStatistics.model_validate(
        {
            "name": name,
            "net": net,
            "rows": rows,
            "dim": dim,
            "request_share": 1.0,
            "bags_per_request": 1.0 if net == "user" else CANDIDATES,
            "pooling_mean": pooling,
            "pooling_p99": 2 * pooling,
            "skew": [HotRows(num_rows=hot[0], mass=hot[1])] if hot else [],
        }
    )


def model(*tables: TableStatistics) -> tuple[Schema, Statistics]:
    """Return a model with these tables."""
    return schema_of(tables), Statistics(tables=tables, num_requests=1, candidates_mean=CANDIDATES)


def shards(num_shards: int, *, memory_bytes: int, **settings: object) -> ShardingConfig:
    """Return settings for so many shards of so many bytes."""
    data = {"num_shards": num_shards, "shard_memory_gib": memory_bytes / 2**30, "encoding": "fp32"} | settings
    return ShardingConfig.parse(data, source="test")


def shard_bytes(plan: ShardPlan) -> list[int]:
    """Return what each shard holds."""
    return [plan.flat_size_bytes(shard) for shard in range(plan.num_shards)]


@st.composite
def models(draw: st.DrawFn, *, min_tables: int = 1, max_tables: int = 12) -> tuple[Schema, Statistics]:
    """Return a model of random tables, some with a few hot rows."""
    tables = []
    for index in range(draw(st.integers(min_tables, max_tables))):
        rows = draw(st.integers(1, 5000))
        is_skewed = rows > 20 and draw(st.booleans())
        tables.append(
            table(
                f"t{index}",
                rows=rows,
                dim=draw(st.sampled_from([4, 16, 64])),
                net=draw(st.sampled_from(["user", "item"])),
                pooling=draw(st.sampled_from([0.0, 0.5, 1.0, 20.0])),
                hot=(draw(st.integers(1, rows // 10)), draw(st.sampled_from([0.5, 0.9]))) if is_skewed else None,
            )
        )
    return model(*tables)


demands = st.builds(
    Demand, requests_per_s=st.sampled_from([0.0, 100.0, 5000.0, 200_000.0]), min_replicas=st.sampled_from([1, 2])
)
