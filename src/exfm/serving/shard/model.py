"""A shard's model: the sums that it owes to a ranker.

Legend: B rows of one net, E dims of the looked-up features side by side.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from prometheus_client import Counter, Histogram

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
from exfm.models.shard_tables import Found, ShardTables
from exfm.schema import NETS, Net
from exfm.serving.batch_queue import SIZE_BUCKETS, BatchQueue
from exfm.serving.bundle_part import load_verified, read_manifest
from exfm.serving.call import Answer, Call, Deadline
from exfm.serving.config import ShardConfig
from exfm.serving.model import Door, ServedModel
from exfm.serving.shard.protocol import (
    ROWS_TYPE,
    SUMS_TYPES,
    answer_outputs,
    bags_of,
    checked_bags,
    keys_input,
    lengths_input,
    lookups_input,
    rows_output,
    shard_model_name,
    sums_output,
)
from exfm.serving.stream.door import StreamDoor
from exfm.serving.stream.frames import Ask, Sums
from exfm.serving.tls import TlsFolder
from exfm.serving.tracing.breakdown import Layer
from exfm.serving.tracing.stopwatch import Stopwatch, timed

BATCH_BYTES = 2**30
"""Of the answers to requests that are looked up together, at most: FBGEMM counts their numbers in 32 bits."""

MESSAGE_ROOM_BYTES = 1_024
"""Of an answer, for what is not sums: names, shapes, and where the time went."""

REFUSED_KEYS = Counter(
    "exfm_shard_refused_keys",
    "Keys outside the slices that a shard holds; more than 0 is a fault of a ranker",
    ["table"],
)

BATCHES = Histogram(
    "exfm_shard_batch_requests",
    "Requests that were looked up together, with max_batch_candidates",
    ["model"],
    buckets=SIZE_BUCKETS,
)

FoundNets = Mapping[Net, Found]


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
        self._queue = BatchQueue(
            self._answers,
            size_of=self._size_of,
            may_come=lambda _: self.admission.num_beginning > 0,  # of streams all that came are here
            sizes=BATCHES.labels(model=self.name) if config.max_batch_candidates else None,
            config=config,
        )

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
        """Return the sums of each net, and its rows if they may travel instead."""
        form = self.config.sums
        datatype = SUMS_TYPES["fp32" if form == "rows" else form]
        outputs: list[dict[str, Any]] = []
        for net, num_dims in self._dims.items():
            outputs.append({"name": sums_output(net), "datatype": datatype, "shape": [-1, num_dims]})
            if form == "rows":
                outputs.append({"name": rows_output(net), "datatype": ROWS_TYPE, "shape": [-1]})
        return outputs

    async def predict(
        self,
        payload: Call,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Answer:
        """Return the sums of each net's bags, or their rows.

        Raises: VersionMismatchError if the call names no bundle; RequestError if the bags are not for this shard's
        lookups, or a key is outside its slices.
        """
        if payload.model_version != self.bundle_id:  # another one than ours was refused before: this one is empty
            raise VersionMismatchError(
                f"shard {self.name!r} holds bundle {self.bundle_id}, but the request is for "
                f"{payload.model_version!r}; a request to a shard says which bundle it is for"
            )
        of_net = (keys_input, lengths_input, lookups_input)
        expected = {input_of(net) for net in self._lookups for input_of in of_net}
        unknown = set(payload.tensors) - expected
        if unknown:
            raise RequestError(f"unknown input {min(unknown)!r}; this shard's inputs are {', '.join(sorted(expected))}")
        with timed(payload.stopwatch, Layer.DESERIALIZE):
            bags = {
                net: bags_of(payload.tensors, net, num_lookups=len(lookups)) for net, lookups in self._lookups.items()
            }
        if payload.stopwatch is not None:  # one that is timed is looked up alone: others' time would be in its own
            sums = self._sums(bags, payload.stopwatch)
        else:
            sums = await self._queue.together(self._find(bags), payload.deadline)
        return Answer(outputs=answer_outputs(sums), parameters={})

    def doors(self) -> list[Door]:
        """Return the door for streams."""
        return [
            StreamDoor(
                self._answer,
                answer_together=self._answer_together if self.config.max_batch_candidates else None,
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
        """Return the sums that a stream's request asks for, counted and timed as KServe does its own."""
        self._check_ask(ask)
        with PREDICT_HIST_TIME.labels(**get_labels(self.name)).time():
            return self._sums(self._bags(ask, stopwatch), stopwatch)

    def _answer_together(self, ask: Ask, deadline: Deadline) -> "asyncio.Future[dict[Net, Sums]]":
        self._check_ask(ask)
        with ExitStack() as timing:
            timing.enter_context(PREDICT_HIST_TIME.labels(**get_labels(self.name)).time())
            sums = self._queue.put(self._find(self._bags(ask, None)), deadline)
            until_done = timing.pop_all()
        sums.add_done_callback(lambda _: until_done.close())
        return sums

    def _check_ask(self, ask: Ask) -> None:
        self.check_version(ask.bundle_id)
        if ask.shard != self._shard:
            raise UnknownModelError(f"the request is for shard {ask.shard}; this is {self.name}")
        if ask.keys.keys() != self._lookups.keys():
            raise RequestError(f"the request is for nets {list(ask.keys)}; this shard has {list(self._lookups)}")

    def _bags(self, ask: Ask, stopwatch: Stopwatch | None) -> dict[Net, LookupBags]:
        with timed(stopwatch, Layer.DESERIALIZE):
            return {
                net: checked_bags(
                    ask.keys[net], ask.lengths[net], ask.lookups.get(net), net=net, num_lookups=len(lookups)
                )
                for net, lookups in self._lookups.items()
            }

    def _sums(self, bags: Mapping[Net, LookupBags], stopwatch: Stopwatch | None) -> dict[Net, Sums]:
        with timed(stopwatch, Layer.EMBEDDING):
            return self._queue.alone(self._find(bags))

    def _find(self, bags: Mapping[Net, LookupBags]) -> FoundNets:
        try:
            # Lengths do not count: a request within a ranker's limit may have more of them here than ids there.
            self.check_size(sum(len(of_net.keys) for of_net in bags.values()))
            for net, of_net in bags.items():
                self.check_rows(of_net.num_rows, kind=f"{net} rows")
            self._check_answer(bags)
        except RequestError as error:  # a ranker's client's, unlike all other errors of its requests
            raise LookupTooLargeError(str(error)) from error
        found = {}
        for net, of_net in bags.items():
            try:
                found[net] = self._tables.find(net, of_net)
            except KeysOutsideSliceError as error:
                REFUSED_KEYS.labels(table=error.table).inc(error.num_keys)
                raise
        return found

    def _size_of(self, found: FoundNets) -> int:
        """Return the candidates of a request, or as many as it takes the room of in a batch."""
        num_bytes = sum(self._tables.answer_bytes(net, of_net.bags) for net, of_net in found.items())
        share = max(
            sum(len(of_net.bags.keys) for of_net in found.values()) / self.config.max_ids, num_bytes / BATCH_BYTES
        )
        num_rows = max((of_net.bags.num_rows for of_net in found.values()), default=0)
        return max(num_rows, math.ceil(share * self.config.max_batch_candidates))

    def _answers(self, requests: Sequence[FoundNets]) -> list[dict[Net, Sums] | Exception]:
        """Return the sums of several requests, by one call a net, or what is wrong with a request's."""
        if len(requests) == 1:  # each of a server that batches nothing: in 0.7 of the time
            [found] = requests
            return [_checked({net: self._tables.answer(of_net).numpy() for net, of_net in found.items()})]
        of_nets = {net: self._tables.answers([found[net] for found in requests]) for net in self._lookups}
        return [
            _checked({net: answers[place].numpy() for net, answers in of_nets.items()})
            for place in range(len(requests))
        ]

    def _check_answer(self, bags: Mapping[Net, LookupBags]) -> None:
        """Return if the sums of these bags fit into one message.

        Raises: RequestError.
        """
        size_bytes = sum(self._tables.answer_bytes(net, of_net) for net, of_net in bags.items())
        if size_bytes > self.config.max_message_bytes - MESSAGE_ROOM_BYTES:
            rows = " and ".join(f"{of_net.num_rows} {net} rows" for net, of_net in bags.items())
            raise RequestError(
                f"the sums of {rows} take {size_bytes} B; max_message_bytes is {self.config.max_message_bytes}, "
                f"{MESSAGE_ROOM_BYTES} B of them for the rest: ask in parts"
            )


def _checked(sums: dict[Net, Sums]) -> "dict[Net, Sums] | Exception":
    """Return sums, or an error if one of them is beyond what half precision has."""
    for net, sums_BE in sums.items():
        # By the bits of infinities and of what is no number: numpy's isfinite takes 20 times as long for halves.
        if sums_BE.dtype == np.float16 and (
            sums_BE.view(np.int16).max(initial=0) >= 0x7C00 or sums_BE.view(np.uint16).max(initial=0) >= 0xFC00
        ):
            return ServingError(f"a sum of the {net} net is beyond 65,504; set the shards' `sums` to fp32")
    return sums
