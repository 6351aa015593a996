"""The ranker's model: a request's features in, a score for each candidate and task out.

Legend: N items, T tasks, E dims of the features that one shard looks up for one net, side by side.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from exfm.artifact.bundle import DENSE_FILE
from exfm.artifact.hot_rows import HOT_ROWS_FILE
from exfm.errors import ConfigError, ServingError, VersionMismatchError
from exfm.features.batch import NetBatches
from exfm.features.oip import complete_answer
from exfm.features.request import encode_request, input_specs
from exfm.models.scoring import Scorer
from exfm.schema import NETS, Net
from exfm.serving.bundle_part import read_manifest, verify_files
from exfm.serving.call import Answer, Call, Deadline
from exfm.serving.config import RankerConfig
from exfm.serving.model import ServedModel
from exfm.serving.ranker.channel import ShardChannel
from exfm.serving.ranker.readiness import ATTEMPT_S, Golden, check_scores, read_golden, until_reached
from exfm.serving.ranker.recorder import Recorder
from exfm.serving.ranker.shards import ask_all, check_ready
from exfm.serving.ranker.upkeep import keep_channels
from exfm.serving.shard.protocol import shard_model_name, shard_request, sums_of
from exfm.serving.tls import TlsFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ask:
    """What is asked of the shards for one call."""

    batches: NetBatches
    requests: Sequence[Any]
    """A ModelInferRequest a shard; None for a shard without lookups."""


class RankerModel(ServedModel):
    """Encodes a request, asks all shards at once, and scores. Ready once its shards gave the golden scores."""

    config: RankerConfig

    def __init__(
        self,
        scorer: Scorer,
        *,
        golden: Golden | None,
        shards: Sequence[str],
        tls: TlsFolder | None,
        recorder: Recorder | None,
        config: RankerConfig,
    ) -> None:
        """Serve with the shards at these addresses, in order; with `tls`, encrypted and under that certificate.

        What clients ask goes to `recorder` too.

        Raises: ConfigError if they are not as many as the bundle's.
        """
        manifest = scorer.manifest
        super().__init__(manifest.name, bundle_id=manifest.bundle_id, config=config)
        self.ready = False
        if len(shards) != manifest.plan.num_shards:
            raise ConfigError(
                f"bundle {manifest.name!r} has {manifest.plan.num_shards} shards, but {len(shards)} addresses are given"
            )
        self._scorer = scorer
        self._golden = golden
        self._addresses = shards
        self._tls = tls
        self._recorder = recorder
        self._channels: list[ShardChannel] = []

    @classmethod
    def load(
        cls, bundle: Path, *, bundle_id: str, shards: Sequence[str], tls: TlsFolder | None, config: RankerConfig
    ) -> Self:
        """Return a bundle's ranker, whose network was verified; no table is read. An empty `bundle_id` takes any.

        Raises: ConfigError, BundleError.
        """
        manifest = read_manifest(bundle, bundle_id=bundle_id)
        verify_files(bundle, manifest, [DENSE_FILE, *([HOT_ROWS_FILE] if manifest.plan.hot_slices() else [])])
        golden = read_golden(bundle, manifest)
        scorer = Scorer.load(bundle, manifest)
        recorder = Recorder.start(manifest, config)
        return cls(scorer, golden=golden, shards=shards, tls=tls, recorder=recorder, config=config)

    async def open(self) -> None:
        """Connect to the shards; they need not be there yet."""
        files = self._tls.files() if self._tls is not None else None
        self._channels = [
            ShardChannel(shard, address, tls=files, config=self.config) for shard, address in enumerate(self._addresses)
        ]

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """Return what becomes ready, and what keeps the channels good."""
        return [self._become_ready(), keep_channels(self._channels, tls=self._tls)]

    async def close(self) -> None:
        """Disconnect from the shards, and write what is still to be recorded."""
        for channel in self._channels:
            await channel.close()
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)

    def get_input_types(self) -> list[dict[str, Any]]:
        """Return the schema's inputs."""
        return [
            {"name": spec.name, "datatype": spec.datatype, "shape": [-1]}
            for spec in input_specs(self._scorer.manifest.feature_schema)
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Return an output for each task."""
        return [{"name": task, "datatype": "FP32", "shape": [-1]} for task in self._scorer.manifest.tasks]

    async def predict(
        self,
        payload: Call,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Answer:
        """Return the scores of a call's candidates.

        Raises: RequestError, DataError, ServingError.
        """
        arrival_ns = time.time_ns()
        ask = self._encode(payload)
        if self._recorder is not None:
            self._recorder.offer(ask.batches, arrival_ns=arrival_ns)
        return await self._answer(ask, payload.deadline)

    async def _answer(self, ask: Ask, deadline: Deadline) -> Answer:
        responses = await ask_all(self._channels, ask.requests, deadline=deadline)
        answer = self._score(ask.batches, responses)
        deadline.check("scores were computed")
        return answer

    async def _become_ready(self) -> None:
        """Return when the shards were reached and gave the golden scores; from then on the model is ready.

        Raises: ServingError if they gave others, or serve another bundle.
        """
        try:
            found = await until_reached(self._try_shards)
        except VersionMismatchError as error:  # no client's mistake here
            raise ServingError(str(error)) from error
        logger.info("ready: %s", found)
        self.ready = True

    async def _try_shards(self) -> str:
        """Return what was found of the shards."""
        deadline = Deadline.after(ATTEMPT_S)
        if self._golden is not None:
            call = Call(self._golden.tensors, deadline=deadline, model_version=self.bundle_id)
            answer = await self._answer(self._encode(call), deadline)
            difference = check_scores(answer.outputs, expected=self._golden.scores)
            return f"the golden request's scores differ by {difference:.1e} at most"
        for channel in self._channels:
            name = shard_model_name(self.name, channel.shard)
            await check_ready(channel, model_name=name, bundle_id=self.bundle_id, deadline=deadline)
        return "all shards answer, but the bundle has no golden request, so no score was compared"

    def _encode(self, call: Call) -> Ask:
        self.check_size(call.tensors.values())
        manifest = self._scorer.manifest
        batches = encode_request(call.tensors, manifest.feature_schema)
        self.check_rows(batches.user.num_rows, kind="users")
        self.check_rows(batches.item.num_rows, kind="candidates")
        every = {net: self._scorer.bags_for(batches, net=net) for net in NETS}
        requests = []
        for shard in range(manifest.plan.num_shards):
            bags = {net: every[net][shard] for net in self._nets_of(shard)}
            name = shard_model_name(manifest.name, shard)
            requests.append(shard_request(bags, model_name=name, bundle_id=manifest.bundle_id) if bags else None)
        return Ask(batches=batches, requests=requests)

    def _score(self, batches: NetBatches, responses: Sequence[Any]) -> Answer:
        sums: list[Mapping[Net, torch.Tensor]] = []
        for shard, response in enumerate(responses):
            shapes = {
                net: (batches.of(net).num_rows, sum(lookup.dim for lookup in self._scorer.lookups(shard, net)))
                for net in self._nets_of(shard)
            }
            sums.append(sums_of(response, shapes) if response is not None else {})
        scores_NT = self._scorer.scores(batches, sums)
        return Answer(
            outputs={task: scores_NT[:, column] for column, task in enumerate(self._scorer.manifest.tasks)},
            parameters=complete_answer(),
        )

    def _nets_of(self, shard: int) -> list[Net]:
        return [net for net in NETS if self._scorer.lookups(shard, net)]
