"""Where a net's columns lie in what shards give, so that those side by side are taken in one piece."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from exfm.models.lookup import Lookup
from exfm.schema import Net, Schema


@dataclass(frozen=True)
class Run:
    """Columns of one net that lie side by side in what shards give: of one shard, or of several that add up."""

    parts: tuple[tuple[int, int, int], ...]
    """Shard, first column, and the one after the last."""
    mean_feature: str = ""
    """The feature that they are of, if its bags are pooled by mean."""

    def with_next(self, other: "Run") -> "Run | None":
        """Return both as one, if the other's columns lie behind these in every part."""
        lies_behind = [(shard, end) for shard, _, end in self.parts] == [
            (shard, start) for shard, start, _ in other.parts
        ]
        if self.mean_feature or other.mean_feature or not lies_behind:
            return None
        both = zip(self.parts, other.parts, strict=True)
        return Run(tuple((shard, start, end) for (shard, start, _), (_, _, end) in both))


def runs_of(lookups: Sequence[Sequence[Lookup]], net: Net, schema: Schema) -> list[Run]:
    """Return a net's columns in the schema's order, in as few runs as what the shards give allows."""
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
