"""A shard's model: it returns pooled embeddings to rankers.

Legend: B rows of one net, E dims of the looked-up features side by side.
"""

import logging
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import Counter

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
from exfm.schema import NETS, Net
from exfm.serving.config import ShardConfig
from exfm.serving.models.bundle_part import load_verified, read_manifest
from exfm.serving.models.served_model import ServedModel
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Profiler, timed
from exfm.serving.requests.call import Answer, Call
from exfm.serving.shard.oip_lookups import bags_of, checked_bags
from exfm.serving.shard_protocol.frames import LookupRequest, Pooled
from exfm.serving.shard_protocol.server import StreamServer
from exfm.serving.tls import TlsFolder

logger = logging.getLogger(__name__)

MESSAGE_ROOM_BYTES = 1_024
"""Reserved in an answer for other content than pooled embeddings: names, shapes, and a trace."""

REFUSED_KEYS = Counter(
    "exfm_shard_refused_keys",
    "Keys outside the slices that a shard holds; more than 0 is an error of a ranker",
    ["table"],
)


class ShardModel(ServedModel):
    """Looks bags of keys up in one shard's tables, and pools their rows."""

    config: ShardConfig
    begins_traces = False  # the ranker decides whether a request is traced

    def __init__(self, bundle: Path, *, bundle_id: str, shard: int, tls: TlsFolder | None, config: ShardConfig) -> None:
        """Load one shard of a bundle from verified files; files of other shards are not read.

        With `tls`, streams are encrypted, and only for clients with a certificate. An empty `bundle_id` accepts any
        bundle.

        Raises: ConfigError if the bundle has no such shard; BundleError.
        """
        manifest = read_manifest(bundle, bundle_id=bundle_id)
        num_shards = manifest.plan.num_shards
        if not 0 <= shard < num_shards:
            raise ConfigError(f"{bundle} has shards 0 to {num_shards - 1}; there is no shard {shard}")
        super().__init__(f"{manifest.name}-shard-{shard}", bundle_id=manifest.bundle_id, config=config)
        device, precision = device_of(config.device), config.pooled_precision
        self._tables = load_verified(bundle, manifest, shard=shard, precision=precision, device=device)
        self._shard = shard
        self._tls = tls
        every = {net: lookups_of(manifest.plan, manifest.feature_schema, shard=shard, net=net) for net in NETS}
        self._lookups = {net: lookups for net, lookups in every.items() if lookups}
        self._dims = {net: sum(lookup.dim for lookup in lookups) for net, lookups in self._lookups.items()}
        for slice_ in manifest.plan.slices_on(shard):
            REFUSED_KEYS.labels(table=slice_.table)  # exported as 0 before the first refusal

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return each net's inputs: keys, lengths, and lookups, which are optional."""
        types: list[dict[str, Any]] = []
        for net in self._lookups:
            types.append({"name": f"{net}.keys", "datatype": "UINT64", "shape": [-1]})
            types.append({"name": f"{net}.lengths", "datatype": "INT32", "shape": [-1, -1]})
            types.append({"name": f"{net}.lookups", "datatype": "INT32", "shape": [-1]})
        return types

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return each net's output, its pooled embeddings."""
        return [
            {"name": f"{net}.pooled", "datatype": self.config.pooled_precision.upper(), "shape": [-1, num_dims]}
            for net, num_dims in self._dims.items()
        ]

    async def predict(self, call: Call) -> Answer:
        """Return the pooled embeddings of each net's bags.

        Raises: VersionMismatchError if the call names no bundle; RequestError if the bags are not for this shard's
        lookups, or a key is outside its slices.
        """
        if call.model_version != self.bundle_id:  # here the version is empty: another one was refused before
            raise VersionMismatchError(
                f"shard {self.name!r} holds bundle {self.bundle_id}, but the request is for "
                f"{call.model_version!r}; set model_version to the bundle that is meant"
            )
        expected = {one["name"] for one in self.get_input_types()}
        unknown = set(call.tensors) - expected
        if unknown:
            raise RequestError(f"unknown input {min(unknown)!r}; this shard's inputs are {', '.join(sorted(expected))}")
        with timed(call.profiler, Layer.DESERIALIZE):
            bags = {net: bags_of(call.tensors, net, num_lookups=len(lookups)) for net, lookups in self._lookups.items()}
        pooled = self._pooled(bags, call.profiler)
        return Answer(outputs={f"{net}.pooled": of_net for net, of_net in pooled.items()}, parameters={})

    async def open(self) -> None:
        """Serve the shard protocol."""
        self._server = StreamServer(self, self._answer, shard=self._shard, config=self.config, tls=self._tls)
        logger.info("serving streams on port %d", await self._server.start())

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Return the check of connections and certificates."""
        return [self._server.keep()]

    async def stop(self) -> None:
        """Take no new lookup by streams, and let those under way end."""
        await self._server.stop()

    def _answer(self, request: LookupRequest, profiler: Profiler | None) -> dict[Net, Pooled]:
        """Return the pooled embeddings for a stream's request, measured like a request by REST or gRPC."""
        self._check_request(request)
        with self.predict_seconds.time():
            with timed(profiler, Layer.DESERIALIZE):
                bags = {
                    net: checked_bags(
                        request.keys[net],
                        request.lengths[net],
                        request.lookups.get(net),
                        net=net,
                        num_lookups=len(lookups),
                    )
                    for net, lookups in self._lookups.items()
                }
            return self._pooled(bags, profiler)

    def _check_request(self, request: LookupRequest) -> None:
        self.check_version(request.bundle_id)
        if request.shard != self._shard:
            raise UnknownModelError(f"the request is for shard {request.shard}; this is {self.name}")
        if request.keys.keys() != self._lookups.keys():
            raise RequestError(f"the request is for nets {list(request.keys)}; this shard has {list(self._lookups)}")

    def _pooled(self, bags: Mapping[Net, LookupBags], profiler: Profiler | None) -> dict[Net, Pooled]:
        with timed(profiler, Layer.EMBEDDING):
            self._check_size(bags)
            return {net: self._pooled_of(net, of_net) for net, of_net in bags.items()}

    def _pooled_of(self, net: Net, bags: LookupBags) -> Pooled:
        try:
            pooled_BE: Pooled = self._tables.pooled(net, bags).cpu().numpy()
        except KeysOutsideSliceError as error:
            REFUSED_KEYS.labels(table=error.table).inc(error.num_keys)
            raise
        # Compares the bits of infinities and NaNs: numpy's isfinite is far slower for float16.
        if pooled_BE.dtype == np.float16 and (
            pooled_BE.view(np.int16).max(initial=0) >= 0x7C00 or pooled_BE.view(np.uint16).max(initial=0) >= 0xFC00
        ):
            raise ServingError(
                f"a pooled embedding of the {net} net is beyond 65,504; set the shards' `pooled_precision` to fp32"
            )
        return pooled_BE

    def _check_size(self, bags: Mapping[Net, LookupBags]) -> None:
        """Return if a lookup is within the limits, and its pooled embeddings fit into one message.

        Raises: LookupTooLargeError.
        """
        try:
            # Lengths do not count: a request within the ranker's limit on ids may have more lengths here.
            self.check_size(sum(len(of_net.keys) for of_net in bags.values()))
            for net, of_net in bags.items():
                self.check_rows(of_net.num_rows, kind=f"{net} rows")
        except RequestError as error:  # the fault of the ranker's client, unlike a ranker's other errors
            raise LookupTooLargeError(str(error)) from error
        size_bytes = sum(self._tables.pooled_bytes(net, of_net) for net, of_net in bags.items())
        if size_bytes > self.config.limits.max_message_bytes - MESSAGE_ROOM_BYTES:
            rows = " and ".join(f"{of_net.num_rows} {net} rows" for net, of_net in bags.items())
            raise LookupTooLargeError(
                f"the pooled embeddings of {rows} take {size_bytes} B; max_message_bytes is "
                f"{self.config.limits.max_message_bytes}, {MESSAGE_ROOM_BYTES} B of them for the rest: send it in parts"
            )
