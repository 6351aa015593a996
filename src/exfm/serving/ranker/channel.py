"""A shard as a ranker sees it: an address, and the gRPC channel that speaks to its servers now."""

import asyncio
from typing import Any

import grpc
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from exfm.serving.config import RankerConfig
from exfm.serving.connections import client_options
from exfm.serving.tls import TlsFiles, channel_credentials

CONNECT_S = 2.0
"""Time for a new channel to connect before it is given up."""
LONGEST_CALL_S = 600.0
"""Time for calls under way on a channel that was replaced; each ends by its own deadline before."""


class ShardChannel:
    """One shard, and what speaks to it."""

    def __init__(self, shard: int, address: str, *, tls: TlsFiles | None, config: RankerConfig) -> None:
        """Make a channel in the event loop that runs; it is not waited for. Without `tls`, nothing is encrypted."""
        self.shard = shard
        self.address = address
        self._config = config
        self._ending: set[asyncio.Task[None]] = set()
        self._use(_open(address, tls=tls, config=config), tls=tls)

    def __str__(self) -> str:
        """Return how messages name it."""
        return f"shard {self.shard} at {self.address}"

    def is_due(self, tls: TlsFiles | None) -> bool:
        """Return whether a new channel should take this one's place: for another certificate, or because it is lost.

        gRPC tries a lost address again by itself, but a name that DNS no longer had only after up to 120 s.
        """
        return tls != self._tls or self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def renew(self, tls: TlsFiles | None) -> None:
        """Go over to a new channel, if it connects; calls under way end on the old one."""
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
        self.stub = GRPCInferenceServiceStub(channel)


def _open(address: str, *, tls: TlsFiles | None, config: RankerConfig) -> Any:
    target = address if address.startswith("dns://") else f"dns:///{address}"
    options = client_options(config)
    if tls is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, channel_credentials(tls), options=options)
