"""A shard's model: the sums that it owes to a ranker.

Legend: B rows of one net, E dims of the looked-up features side by side.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from prometheus_client import Counter

from exfm.artifact.bundle import BundleManifest
from exfm.errors import (
    ConfigError,
    KeysOutsideSliceError,
    LookupTooLargeError,
    RequestError,
    ServingError,
    UnknownModelError,
    VersionMismatchError,
)
from exfm.models.device import device_of
from exfm.models.lookup import LookupBags, lookups_of
from exfm.models.shard_tables import ShardTables
from exfm.schema import NETS, Net
from exfm.serving.config import ShardConfig
from exfm.serving.models.bundle_part import load_verified, read_manifest
from exfm.serving.models.served_model import Door, ServedModel
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Stopwatch, timed
from exfm.serving.requests.call import Answer, Call
from exfm.serving.shard.oip_lookups import (
    SUMS_TYPES,
    bags_of,
    checked_bags,
    keys_input,
    lengths_input,
    lookups_input,
    shard_model_name,
    sums_output,
)
from exfm.serving.shard_protocol.frames import Ask, Sums
from exfm.serving.shard_protocol.server import StreamDoor
from exfm.serving.tls import TlsFolder

MESSAGE_ROOM_BYTES = 1_024
"""Of an answer, for what is not sums: names, shapes, and where the time went."""

REFUSED_KEYS = Counter(
    "exfm_shard_refused_keys",
    "Keys outside the slices that a shard holds; more than 0 is a fault of a ranker",
    ["table"],
)


class ShardModel(ServedModel):
    """Looks bags of keys up in one shard's tables, and sums their rows."""

    config: ShardConfig
    begins_traces = False  # a ranker's request that it does not trace has no parent here

    def __init__(
        self, tables: ShardTables, manifest: BundleManifest, *, shard: int, tls: TlsFolder | None, config: ShardConfig
    ) -> None:
        """Serve a shard's tables; with `tls`, streams are encrypted and for clients with a certificate only."""
        super().__init__(shard_model_name(manifest.name, shard), bundle_id=manifest.bundle_id, config=config)
        self._tables = tables
        self._shard = shard
        self._tls = tls
        every = {net: lookups_of(manifest.plan, manifest.feature_schema, shard=shard, net=net) for net in NETS}
        self._lookups = {net: lookups for net, lookups in every.items() if lookups}
        self._dims = {net: sum(lookup.dim for lookup in lookups) for net, lookups in self._lookups.items()}
        for slice_ in manifest.plan.slices_on(shard):
            REFUSED_KEYS.labels(table=slice_.table)  # shows 0 before the first

    @classmethod
    def load(cls, bundle: Path, *, bundle_id: str, shard: int, tls: TlsFolder | None, config: ShardConfig) -> Self:
        """Return one shard of a bundle, whose tables were verified; no other shard's are read.

        An empty `bundle_id` takes any bundle.

        Raises: ConfigError if the bundle has no such shard; BundleError.
        """
        manifest = read_manifest(bundle, bundle_id=bundle_id)
        num_shards = manifest.plan.num_shards
        if not 0 <= shard < num_shards:
            raise ConfigError(f"{bundle} has shards 0 to {num_shards - 1}; there is no shard {shard}")
        tables = load_verified(bundle, manifest, shard=shard, sums=config.sums, device=device_of(config.device))
        return cls(tables, manifest, shard=shard, tls=tls, config=config)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return keys and lengths of each net, and the lookups that they are for, which may be left out."""
        types: list[dict[str, Any]] = []
        for net in self._lookups:
            types.append({"name": keys_input(net), "datatype": "UINT64", "shape": [-1]})
            types.append({"name": lengths_input(net), "datatype": "INT32", "shape": [-1, -1]})
            types.append({"name": lookups_input(net), "datatype": "INT32", "shape": [-1]})
        return types

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return the sums of each net."""
        datatype = SUMS_TYPES[self.config.sums]
        return [
            {"name": sums_output(net), "datatype": datatype, "shape": [-1, num_dims]}
            for net, num_dims in self._dims.items()
        ]

    async def predict(self, call: Call) -> Answer:
        """Return the sums of each net's bags.

        Raises: VersionMismatchError if the call names no bundle; RequestError if the bags are not for this shard's
        lookups, or a key is outside its slices.
        """
        if call.model_version != self.bundle_id:  # another one than ours was refused before: this one is empty
            raise VersionMismatchError(
                f"shard {self.name!r} holds bundle {self.bundle_id}, but the request is for "
                f"{call.model_version!r}; a request to a shard says which bundle it is for"
            )
        of_net = (keys_input, lengths_input, lookups_input)
        expected = {input_of(net) for net in self._lookups for input_of in of_net}
        unknown = set(call.tensors) - expected
        if unknown:
            raise RequestError(f"unknown input {min(unknown)!r}; this shard's inputs are {', '.join(sorted(expected))}")
        with timed(call.stopwatch, Layer.DESERIALIZE):
            bags = {net: bags_of(call.tensors, net, num_lookups=len(lookups)) for net, lookups in self._lookups.items()}
        sums = self._sums(bags, call.stopwatch)
        return Answer(outputs={sums_output(net): of_net for net, of_net in sums.items()}, parameters={})

    def doors(self) -> list[Door]:
        """Return the door for streams."""
        return [
            StreamDoor(
                self._answer,
                bundle_id=self.bundle_id,
                shard=self._shard,
                admission=self.admission,
                seconds=self.seconds,
                spans=self.spans,
                config=self.config,
                tls=self._tls,
            )
        ]

    def _answer(self, ask: Ask, stopwatch: Stopwatch | None) -> dict[Net, Sums]:
        """Return the sums that a stream's request asks for, counted and timed as one by REST or gRPC."""
        self._check_ask(ask)
        with self.seconds.predicting():
            with timed(stopwatch, Layer.DESERIALIZE):
                bags = {
                    net: checked_bags(
                        ask.keys[net], ask.lengths[net], ask.lookups.get(net), net=net, num_lookups=len(lookups)
                    )
                    for net, lookups in self._lookups.items()
                }
            return self._sums(bags, stopwatch)

    def _check_ask(self, ask: Ask) -> None:
        self.check_version(ask.bundle_id)
        if ask.shard != self._shard:
            raise UnknownModelError(f"the request is for shard {ask.shard}; this is {self.name}")
        if ask.keys.keys() != self._lookups.keys():
            raise RequestError(f"the request is for nets {list(ask.keys)}; this shard has {list(self._lookups)}")

    def _sums(self, bags: Mapping[Net, LookupBags], stopwatch: Stopwatch | None) -> dict[Net, Sums]:
        with timed(stopwatch, Layer.EMBEDDING):
            self._check_size(bags)
            return {net: self._sums_of(net, of_net) for net, of_net in bags.items()}

    def _sums_of(self, net: Net, bags: LookupBags) -> Sums:
        try:
            sums_BE: Sums = self._tables.sums(net, bags).cpu().numpy()
        except KeysOutsideSliceError as error:
            REFUSED_KEYS.labels(table=error.table).inc(error.num_keys)
            raise
        # By the bits of infinities and of what is no number: numpy's isfinite takes 20 times as long for halves.
        if sums_BE.dtype == np.float16 and (
            sums_BE.view(np.int16).max(initial=0) >= 0x7C00 or sums_BE.view(np.uint16).max(initial=0) >= 0xFC00
        ):
            raise ServingError(f"a sum of the {net} net is beyond 65,504; set the shards' `sums` to fp32")
        return sums_BE

    def _check_size(self, bags: Mapping[Net, LookupBags]) -> None:
        """Return if a lookup is within the limits.

        Raises: LookupTooLargeError.
        """
        try:
            # Lengths do not count: a request within a ranker's limit may have more of them here than ids there.
            self.check_size(sum(len(of_net.keys) for of_net in bags.values()))
            for net, of_net in bags.items():
                self.check_rows(of_net.num_rows, kind=f"{net} rows")
            self._check_answer(bags)
        except RequestError as error:  # a ranker's client's, unlike all other errors of its requests
            raise LookupTooLargeError(str(error)) from error

    def _check_answer(self, bags: Mapping[Net, LookupBags]) -> None:
        """Return if the sums of these bags fit into one message.

        Raises: RequestError.
        """
        size_bytes = sum(self._tables.sums_bytes(net, of_net) for net, of_net in bags.items())
        if size_bytes > self.config.limits.max_message_bytes - MESSAGE_ROOM_BYTES:
            rows = " and ".join(f"{of_net.num_rows} {net} rows" for net, of_net in bags.items())
            raise RequestError(
                f"the sums of {rows} take {size_bytes} B; max_message_bytes is {self.config.limits.max_message_bytes}, "
                f"{MESSAGE_ROOM_BYTES} B of them for the rest: ask in parts"
            )
