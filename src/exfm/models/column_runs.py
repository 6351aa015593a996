"""Which columns of shards' answers are adjacent, so that one copy takes them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from exfm.models.lookup import Lookup
from exfm.schema import Net, Schema


@dataclass(frozen=True)
class Run:
    """Adjacent columns of one net, in one shard's answer or in the answers of several shards whose values are added."""

    parts: tuple[tuple[int, int, int], ...]
    """For each shard: its number, the first column, and the column after the last."""
    mean_feature: str = ""
    """The feature of these columns, if it is pooled by mean; else empty."""

    def with_next(self, other: "Run") -> "Run | None":
        """Return both runs as one, if the other's columns follow these in every part; else None."""
        lies_behind = [(shard, end) for shard, _, end in self.parts] == [
            (shard, start) for shard, start, _ in other.parts
        ]
        if self.mean_feature or other.mean_feature or not lies_behind:
            return None
        both = zip(self.parts, other.parts, strict=True)
        return Run(tuple((shard, start, end) for (shard, start, _), (_, _, end) in both))


def runs_of(lookups: Sequence[Sequence[Lookup]], net: Net, schema: Schema) -> list[Run]:
    """Return a net's columns in the schema's order, in as few runs as possible."""
    parts = defaultdict[str, list[tuple[int, int, int]]](list)
    for shard, of_shard in enumerate(lookups):
        ends = accumulate(lookup.dim for lookup in of_shard)
        for lookup, end in zip(of_shard, ends, strict=True):
            parts[lookup.feature.name].append((shard, end - lookup.dim, end))
    runs: list[Run] = []
    for feature in schema.sparse_of(net):
        is_mean = schema.table(feature.table).pooling == "mean"
        run = Run(tuple(parts[feature.name]), mean_feature=feature.name if is_mean else "")
        if runs and (longer := runs[-1].with_next(run)):
            runs[-1] = longer
        else:
            runs.append(run)
    return runs
