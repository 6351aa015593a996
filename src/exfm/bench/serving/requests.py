"""The requests of a case: those that servers are measured with, those that are traced, and those that are scored."""

from dataclasses import dataclass
from typing import Self

from exfm.bench.serving.config import Case, ServingBenchConfig
from exfm.bench.serving.layers import num_traced
from exfm.bench.serving.starts import NUM_SCORED, Parts
from exfm.bench.workload import Request


@dataclass(frozen=True)
class CaseRequests:
    """All of a case's requests, which come again where a list is at its end."""

    timed: list[Request]
    traced: list[Request]
    scored: list[Request]

    @classmethod
    def of(cls, case: Case, config: ServingBenchConfig) -> Self:
        """Return a case's requests.

        Where a ranker keeps items, none comes to a server twice in one start, and the items of those that are traced or
        scored are all new, so that shards are asked. Else they are all the same.
        """
        model = config.model(case.model)

        def drawn(num_requests: int, *, seed: int, distinct_items: int) -> list[Request]:
            return model.requests(num_requests, candidates=case.candidates, seed=seed, distinct_items=distinct_items)

        if not any(case.cache_mib):
            requests = drawn(config.distinct_requests, seed=config.seed, distinct_items=case.distinct_items)
            return cls(requests, requests, requests[:NUM_SCORED])
        starts = config.blocks_of_starts()
        parts = Parts.of(case.requests, config, is_open=case.loads[0] > 0)
        num_timed = max(map(len, starts)) * parts.num_asked
        new = drawn(NUM_SCORED + num_traced(len(starts)), seed=config.seed + 1, distinct_items=0)
        return cls(
            timed=drawn(num_timed, seed=config.seed, distinct_items=case.distinct_items),
            traced=new[NUM_SCORED:],
            scored=new[:NUM_SCORED],
        )
