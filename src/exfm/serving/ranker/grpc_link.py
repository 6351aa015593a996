"""A shard reached by gRPC: an address, and the channel that speaks to its servers now."""

import asyncio
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from exfm.errors import ShardUnavailableError
from exfm.models.scoring import NetSums
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig
from exfm.serving.connections import CONNECT_MS, client_options
from exfm.serving.messages import RawResponse
from exfm.serving.ranker.link import ShardCall, ShardId, ShardLink
from exfm.serving.shard.protocol import answers_of, shard_model_name, shard_request
from exfm.serving.tls import TlsFiles, channel_credentials
from exfm.serving.tracing.breakdown import Layer
from exfm.serving.tracing.spans import carried_on
from exfm.serving.tracing.stopwatch import TRACE, awaited, timed
from exfm.serving.wire import INFER_METHOD

CONNECT_S = CONNECT_MS * 1e-3
"""Time for a new channel to connect before it is given up."""
LONGEST_CALL_S = 600.0
"""Time for calls under way on a channel that was replaced; each ends by its own deadline before."""


class GrpcLink(ShardLink):
    """One shard, by gRPC; all addresses that its name has get their turn, in gRPC's own code."""

    def __init__(self, shard: ShardId, address: str, *, tls: TlsFiles | None, config: RankerConfig) -> None:
        """Make a channel in the event loop that runs; it is not waited for. Without `tls`, nothing is encrypted."""
        super().__init__(shard, address)
        self._name = shard_model_name(shard.model, shard.shard)
        self._config = config
        self._ending: set[asyncio.Task[None]] = set()
        self._use(_open(address, tls=tls, config=config), tls=tls)

    async def sums(self, call: ShardCall) -> NetSums:
        """Return the shard's sums of a call's bags, from the server whose turn it is; raises as ShardLink's."""
        stopwatch = call.stopwatch
        with timed(stopwatch, Layer.SERIALIZE_ASKS):
            request = shard_request(call.bags, model_name=self._name, bundle_id=self.shard.bundle_id)
        if stopwatch is not None:
            request.parameters[TRACE].bool_param = True
        metadata = tuple(carried_on().items()) or None
        try:
            with awaited(stopwatch):
                response = await self._infer(request, timeout=call.deadline.remaining_s(), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise self.error(error.code(), error.details(), call.deadline) from error
        with timed(stopwatch, Layer.DESERIALIZE_SUMS):
            sums = self.sums_in(answers_of(response), call.bags, bundle_id=response.head.model_version)
        if stopwatch is not None:
            stopwatch.told(response.head.parameters[TRACE].string_param)
        return sums

    async def check_ready(self, *, deadline: Deadline) -> None:
        """Return if the shard says that it is ready; raises as ShardLink's."""
        request = pb.ModelReadyRequest(name=self._name, version=self.shard.bundle_id)
        try:
            response = await self._stub.ModelReady(request, timeout=deadline.remaining_s())
        except grpc.aio.AioRpcError as error:
            raise self.error(error.code(), error.details(), deadline) from error
        if not response.ready:
            raise ShardUnavailableError(f"{self} is not ready; try again when it is")

    async def keep(self, tls: TlsFiles | None) -> None:
        """Go over to a new channel, if it connects, for another certificate or because this one is lost.

        Calls under way end on the old one. gRPC tries a lost address again by itself, but a name that DNS no longer had
        only after up to 120 s.
        """
        if tls == self._tls and self._channel.get_state() is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            return
        channel = _open(self.address, tls=tls, config=self._config)
        try:
            async with asyncio.timeout(CONNECT_S):
                await channel.channel_ready()
        except TimeoutError:
            await channel.close()
            return
        ending = asyncio.create_task(self._channel.close(grace=LONGEST_CALL_S))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        self._use(channel, tls=tls)

    async def close(self) -> None:
        """Close all channels; calls under way are broken off."""
        for ending in self._ending:
            ending.cancel()
        await self._channel.close()

    def _use(self, channel: Any, *, tls: TlsFiles | None) -> None:
        self._channel, self._tls = channel, tls
        self._stub = GRPCInferenceServiceStub(channel)
        self._infer = channel.unary_unary(
            INFER_METHOD,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=RawResponse.from_bytes,
        )


def _open(address: str, *, tls: TlsFiles | None, config: RankerConfig) -> Any:
    target = address if address.startswith("dns://") else f"dns:///{address}"
    options = client_options(config)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, channel_credentials(tls), options=options)
