"""The ranker's model: a request's features in, a score for each candidate and task out.

Legend: N items, T tasks, Y units of the bottom tower.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import Counter
from torch import Tensor

from exfm.artifact.bundle import DENSE_FILE
from exfm.artifact.hot_rows import HOT_ROWS_FILE
from exfm.errors import ConfigError, RequestError, ServingError
from exfm.features.batch import NetBatches
from exfm.features.oip import answer_parameters, require_numbers
from exfm.features.request import RequestEncoder, input_specs
from exfm.features.typed_request import ITEMS, to_inputs
from exfm.models.device import CPU, device_of
from exfm.models.linear import has_bf16
from exfm.models.local_tables import choose_local_tables
from exfm.models.scoring import NetPooled, Scorer
from exfm.models.shard_tables import ShardTables
from exfm.serving.config import RankerConfig
from exfm.serving.models.bundle_part import load_verified, load_verified_locals, read_manifest, verify_files
from exfm.serving.models.served_model import ServedModel
from exfm.serving.profiler.breakdown import Layer
from exfm.serving.profiler.profiler import Profiler, timed
from exfm.serving.ranker.readiness import ATTEMPT_S, check_scores, read_golden, until_reached
from exfm.serving.ranker.shards.breaker import GuardedShard
from exfm.serving.ranker.shards.fan_out import TURNS_TO_SEND, Shard, lookup_all
from exfm.serving.ranker.shards.link import ShardLink
from exfm.serving.ranker.shards.local_link import LocalLink
from exfm.serving.ranker.shards.stream_link import StreamLink
from exfm.serving.requests.call import Answer, Call, Deadline
from exfm.serving.shard_protocol.shard_id import ShardId
from exfm.serving.tls import TlsFiles, TlsFolder

logger = logging.getLogger(__name__)

CHECK_S = 2.0
"""Pause between two checks of a link."""

DEGRADED = Counter("exfm_ranker_degraded_answers", "Answers with fallback rows in place of a shard's rows")


class RankerModel(ServedModel):
    """Encodes a request, looks its keys up at all shards at once, and scores its candidates.

    It is ready once its shards gave the golden scores.
    """

    config: RankerConfig

    def __init__(
        self, bundle: Path, *, bundle_id: str, shards: Sequence[str], tls: TlsFolder | None, config: RankerConfig
    ) -> None:
        """Load a bundle from verified files, and serve with the shards at these addresses; with `tls`, by mutual TLS.

        Without addresses this server holds all tables; with them, only those of the setting `local_tables_mib`. An
        empty `bundle_id` accepts any bundle.

        Raises: ConfigError, such as for another number of addresses than the bundle has shards; BundleError.
        """
        manifest = read_manifest(bundle, bundle_id=bundle_id)
        plan = manifest.plan
        if len(shards) not in {0, plan.num_shards}:
            raise ConfigError(
                f"bundle {manifest.name!r} has {plan.num_shards} shards, but {len(shards)} addresses are given"
            )
        self._degrades = config.shards.when_shard_fails == "degrade"
        if self._degrades and not manifest.fallback_rows:
            raise ConfigError(
                f"shards.when_shard_fails is 'degrade', but bundle {manifest.name!r} has no fallback rows: export "
                "it again, or set 'fail'"
            )
        super().__init__(manifest.name, bundle_id=manifest.bundle_id, config=config)
        self.ready = False
        optional = [HOT_ROWS_FILE if plan.hot_slices() else "", manifest.fallback_rows]
        verify_files(bundle, manifest, [DENSE_FILE, *filter(None, optional)])
        self._golden = read_golden(bundle, manifest)
        room_bytes = config.shards.local_tables_mib * 2**20 if shards else 0
        local = choose_local_tables(plan, manifest.feature_schema, size_bytes=room_bytes) if room_bytes else ()
        device = device_of(config.device)
        if config.dense_precision == "bf16" and device == CPU and not has_bf16():
            logger.warning("dense_precision is 'bf16', but this CPU has no instructions for it: 'fp32' is faster here")
        self._scorer = Scorer.load(
            bundle, manifest, device=device, precision=config.dense_precision, local_tables=local
        )
        every = () if shards else range(plan.num_shards)
        held = [load_verified(bundle, manifest, shard=shard, device=device) for shard in every]
        if local:
            held.append(load_verified_locals(bundle, self._scorer))
            logger.info("holds %d tables itself: %s", len(local), ", ".join(local))
        self._encoder = RequestEncoder(manifest.feature_schema)
        self._shards: Sequence[str | ShardTables] = [*shards, *held]
        """Each shard's address or tables; after the last shard, the local tables, if any."""
        self._tls = tls
        self._links: list[ShardLink] = []
        self._guarded: list[GuardedShard] = []
        self._request_log = None
        if config.request_log.folder:
            from exfm.serving.ranker.request_log import RequestLog  # imported here, because only the log needs Arrow

            self._request_log = RequestLog(manifest, config.request_log)

    async def open(self) -> None:
        """Start to connect to the shards, which may start later."""
        files = self._tls.files() if self._tls is not None else None
        self._links = [self._link_to(one, shard, files) for shard, one in enumerate(self._shards)]
        self._guarded = [GuardedShard(link, config=self.config.breaker) for link in self._links]

    def _link_to(self, one: str | ShardTables, shard: int, tls: TlsFiles | None) -> ShardLink:
        if isinstance(one, ShardTables):
            has_others = any(isinstance(other, str) for other in self._shards)
            return LocalLink(one, self._scorer, shard=shard, num_turns=TURNS_TO_SEND if has_others else 0)
        return StreamLink(ShardId.of(self._scorer, shard), one, tls=tls, config=self.config)

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Return the check of readiness, and the repair of each link: one that hangs does not delay others."""
        return [self._become_ready(), *map(self._keep, self._links)]

    async def close(self) -> None:
        """Disconnect from the shards, and write the rest of the request log."""
        for link in self._links:
            await link.close()
        if self._request_log is not None:
            await asyncio.to_thread(self._request_log.close)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the schema's inputs."""
        return [
            {"name": spec.name, "datatype": spec.datatype, "shape": [-1]}
            for spec in input_specs(self._scorer.manifest.feature_schema)
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return an output for each task."""
        return [{"name": task, "datatype": "FP32", "shape": [-1]} for task in self._scorer.manifest.tasks]

    def to_inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a JSON request with the protocol's inputs, converted from the form that people type."""
        schema, items = self._scorer.manifest.feature_schema, body.get(ITEMS)
        if isinstance(items, list):
            self.check_rows(len(items), kind="candidates")
            self.check_size(
                len(items) * len(schema.feature_names(["item"]))
            )  # a feature that is left out takes a value, too
        return to_inputs(body, schema)

    async def predict(self, call: Call) -> Answer:
        """Return the scores of a call's candidates.

        Raises: RequestError, DataError, ServingError.
        """
        arrival_ns = time.time_ns()
        profiler = call.profiler
        with timed(profiler, Layer.ENCODE):
            batches = self._encode(call)
        deadline = call.deadline
        answer = await self._answer(batches, self._guarded, deadline, may_miss=self._degrades, profiler=profiler)
        deadline.check("scores were computed")
        require_numbers(answer.outputs)
        if answer.parameters["degraded"]:
            DEGRADED.inc()
        if self._request_log is not None:
            answer = self._request_log.logged(call.tensors, answer, arrival_ns=arrival_ns, num_shown=call.num_shown)
        return answer

    async def _answer(
        self,
        batches: NetBatches,
        shards: Sequence[Shard],
        deadline: Deadline,
        *,
        may_miss: bool,
        profiler: Profiler | None = None,
    ) -> Answer:
        """Return the scores. With `may_miss`, shards get a share of the time, and fallback rows replace lost ones."""

        def bottom() -> Tensor:
            with timed(profiler, Layer.BOTTOM):
                return self._scorer.bottom(batches)

        with timed(profiler, Layer.ROUTE):
            bags = self._scorer.bags_for(batches)
        for_shards = deadline.share(self.config.deadlines.shard_budget) if may_miss else deadline
        found, bottom_NY = await lookup_all(
            shards, bags, deadline=for_shards, meanwhile=bottom, may_miss=may_miss, profiler=profiler
        )
        deadline.check("shards were looked up")
        with timed(profiler, Layer.DENSE):
            pooled, replaced = list[NetPooled](), set[str]()
            for shard, of_shard in enumerate(found):
                if of_shard is None:
                    of_shard = self._scorer.stand_in(bags[shard], shard=shard)
                    replaced |= self._scorer.tables_of(bags[shard], shard=shard)
                pooled.append(of_shard)
            scores_NT = self._scorer.scores(batches, pooled, bottom_NY)
        return Answer(
            outputs={task: scores_NT[:, column] for column, task in enumerate(self._scorer.manifest.tasks)},
            parameters=answer_parameters(replaced),
        )

    async def _keep(self, link: ShardLink) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            await link.keep(self._tls.files() if self._tls is not None else None)

    async def _become_ready(self) -> None:
        """Make the model ready once its shards gave the golden scores.

        Raises: ServingError if the scores differ, or the shards serve another bundle.
        """
        try:
            found = await until_reached(self._try_shards)
        except RequestError as error:  # such as a shard of another bundle; no client is involved
            raise ServingError(str(error)) from error
        logger.info("ready: %s", found)
        self.ready = True

    async def _try_shards(self) -> str:
        """Return a line about the checked shards."""
        deadline = Deadline.after(ATTEMPT_S)
        if self._golden is not None:
            call = Call(self._golden.tensors, deadline=deadline, model_version=self.bundle_id)
            answer = await self._answer(self._encode(call), self._links, deadline, may_miss=False)
            difference = check_scores(
                answer.outputs, expected=self._golden.scores, precision=self.config.dense_precision
            )
            return f"the golden query's scores differ by {difference:.1e} at most"
        for link in self._links:
            await link.check_ready(deadline=deadline)
        return "all shards answer, but the bundle has no golden query, so no score was compared"

    def _encode(self, call: Call) -> NetBatches:
        self.check_size(sum(tensor.values.size for tensor in call.tensors.values()))
        batches = self._encoder.encode(call.tensors)
        self.check_rows(batches.user.num_rows, kind="users")
        self.check_rows(batches.item.num_rows, kind="candidates")
        return batches
