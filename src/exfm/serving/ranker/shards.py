"""The shards as a ranker sees them: one long-lived channel each, asked all at once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from exfm.errors import DeadlineError, ServingError, ShardUnavailableError, VersionMismatchError
from exfm.serving.call import Deadline
from exfm.serving.config import RankerConfig


@dataclass(frozen=True)
class ShardChannel:
    """A shard's address and what speaks to it."""

    shard: int
    address: str
    channel: Any
    stub: Any

    def __str__(self) -> str:
        """Return how messages name it."""
        return f"shard {self.shard} at {self.address}"


def connect(addresses: Sequence[str], *, config: RankerConfig) -> list[ShardChannel]:
    """Return a channel to each shard, in the event loop that runs; none is waited for.

    A lost shard is tried again in the background, so a ranker finds it by itself when it is back.
    """
    options = [
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", config.max_reconnect_backoff_ms),
        ("grpc.enable_http_proxy", 0),  # a proxy of the environment is meant for the world outside
    ]
    channels = []
    for shard, address in enumerate(addresses):
        channel = grpc.aio.insecure_channel(address, options=options)
        channels.append(ShardChannel(shard, address, channel, GRPCInferenceServiceStub(channel)))
    return channels


async def ask_all(channels: Sequence[ShardChannel], requests: Sequence[Any], *, deadline: Deadline) -> list[Any]:
    """Return each shard's answer to its request; None asks a shard nothing, and gives None.

    The first failure ends the wait for the others.

    Raises: ShardUnavailableError, DeadlineError, VersionMismatchError, ServingError; each names the shard.
    """
    tasks = [
        asyncio.create_task(_ask(channel, request, deadline))
        for channel, request in zip(channels, requests, strict=True)
    ]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _ask(shard: ShardChannel, request: Any, deadline: Deadline) -> Any:
    if request is None:
        return None
    deadline.check(f"{shard} was not asked yet")
    try:
        response = await shard.stub.ModelInfer(request, timeout=deadline.remaining_s())
    except grpc.aio.AioRpcError as error:
        raise _error(shard, error, deadline) from error
    if response.model_version != request.model_version:
        raise VersionMismatchError(
            f"{shard} answered from bundle {response.model_version!r}, expected {request.model_version}"
        )
    return response


def _error(shard: ShardChannel, error: Any, deadline: Deadline) -> ServingError | VersionMismatchError:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            return ShardUnavailableError(f"{shard} cannot be reached ({error.details()}); try again when it is back")
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(f"{shard} did not answer within the {deadline.allowed_ms:.0f} ms allowed")
        case grpc.StatusCode.FAILED_PRECONDITION:
            return VersionMismatchError(f"{shard} refused: {error.details()}")
        case code:
            return ServingError(f"{shard} failed with {code.name}: {error.details()}")
