"""The shards, asked all at once."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from exfm.errors import DeadlineError, ServingError, ShardUnavailableError, VersionMismatchError
from exfm.serving.call import Deadline
from exfm.serving.ranker.channel import ShardChannel


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


async def check_ready(shard: ShardChannel, *, model_name: str, bundle_id: str, deadline: Deadline) -> None:
    """Return if a shard says that it is ready to answer from this bundle.

    Raises: as `ask_all`.
    """
    request = pb.ModelReadyRequest(name=model_name, version=bundle_id)
    try:
        response = await shard.stub.ModelReady(request, timeout=deadline.remaining_s())
    except grpc.aio.AioRpcError as error:
        raise _error(shard, error, deadline) from error
    if not response.ready:
        raise ShardUnavailableError(f"{shard} is not ready; try again when it is")


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
