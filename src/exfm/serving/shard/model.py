"""A shard's model: the sums that it owes to a ranker.

Legend: B rows of one net, E dims of the looked-up features side by side.
"""

from pathlib import Path
from typing import Any, Self

from prometheus_client import Counter

from exfm.artifact.bundle import BundleManifest, tables_file
from exfm.artifact.hot_rows import hot_rows_file
from exfm.errors import ConfigError, KeysOutsideSliceError, RequestError, VersionMismatchError
from exfm.models.lookup import ShardTables, lookups_of
from exfm.models.scoring import load_shard_tables
from exfm.schema import NETS
from exfm.serving.bundle_part import read_manifest, verify_files
from exfm.serving.call import Answer, Call
from exfm.serving.config import ServerConfig
from exfm.serving.model import ServedModel
from exfm.serving.shard.protocol import bags_of, keys_input, lengths_input, shard_model_name, sums_output

REFUSED_KEYS = Counter(
    "exfm_shard_refused_keys",
    "Keys outside the slices that a shard holds; more than 0 is a fault of a ranker",
    ["table"],
)


class ShardModel(ServedModel):
    """Looks bags of keys up in one shard's tables, and sums their rows."""

    def __init__(self, tables: ShardTables, manifest: BundleManifest, *, shard: int, config: ServerConfig) -> None:
        super().__init__(shard_model_name(manifest.name, shard), bundle_id=manifest.bundle_id, config=config)
        self._tables = tables
        every = {net: lookups_of(manifest.plan, manifest.feature_schema, shard=shard, net=net) for net in NETS}
        self._lookups = {net: lookups for net, lookups in every.items() if lookups}
        for slice_ in manifest.plan.slices_on(shard):
            REFUSED_KEYS.labels(table=slice_.table)  # shows 0 before the first

    @classmethod
    def load(cls, bundle: Path, *, bundle_id: str, shard: int, config: ServerConfig) -> Self:
        """Return one shard of a bundle, whose tables were verified; no other shard's are read.

        An empty `bundle_id` takes any bundle.

        Raises: ConfigError if the bundle has no such shard; BundleError.
        """
        manifest = read_manifest(bundle, bundle_id=bundle_id)
        num_shards = manifest.plan.num_shards
        if not 0 <= shard < num_shards:
            raise ConfigError(f"{bundle} has shards 0 to {num_shards - 1}; there is no shard {shard}")
        is_hot = any(slice_.kind == "hot" for slice_ in manifest.plan.slices_on(shard))
        verify_files(bundle, manifest, [tables_file(shard), *([hot_rows_file(shard)] if is_hot else [])])
        return cls(load_shard_tables(bundle, manifest, shard=shard), manifest, shard=shard, config=config)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return keys and lengths of each net."""
        types: list[dict[str, Any]] = []
        for net, lookups in self._lookups.items():
            types.append({"name": keys_input(net), "datatype": "UINT64", "shape": [-1]})
            types.append({"name": lengths_input(net), "datatype": "INT32", "shape": [len(lookups), -1]})
        return types

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the sums of each net."""
        return [
            {"name": sums_output(net), "datatype": "FP32", "shape": [-1, sum(lookup.dim for lookup in lookups)]}
            for net, lookups in self._lookups.items()
        ]

    async def predict(
        self,
        payload: Call,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Answer:
        """Return the sums of each net's bags.

        Raises: VersionMismatchError if the call names no bundle; RequestError if the bags are not for this shard's
        lookups, or a key is outside its slices.
        """
        if payload.model_version != self.bundle_id:  # another one than ours was refused before: this one is empty
            raise VersionMismatchError(
                f"shard {self.name!r} holds bundle {self.bundle_id}, but the request is for "
                f"{payload.model_version!r}; a request to a shard says which bundle it is for"
            )
        expected = {name for net in self._lookups for name in (keys_input(net), lengths_input(net))}
        unknown = set(payload.tensors) - expected
        if unknown:
            raise RequestError(f"unknown input {min(unknown)!r}; this shard's inputs are {', '.join(sorted(expected))}")
        # Lengths do not count: a request within a ranker's limit may have more of them here than ids there.
        keys = [tensor for name, tensor in payload.tensors.items() if name in map(keys_input, self._lookups)]
        self.check_size(keys)
        outputs = {}
        for net, lookups in self._lookups.items():
            bags = bags_of(payload.tensors, net, lookups)
            num_rows = len(bags[0].offsets) - 1
            self.check_rows(num_rows, kind=f"{net} rows")
            try:
                sums_BE = self._tables.sums(net, bags, num_rows=num_rows)
            except KeysOutsideSliceError as error:
                REFUSED_KEYS.labels(table=error.table).inc(error.num_keys)
                raise
            outputs[sums_output(net)] = sums_BE.numpy()
        return Answer(outputs=outputs, parameters={})
