"""What an error is on the wire: a gRPC status code and an HTTP status."""

import logging
from dataclasses import dataclass

import grpc
from kserve.errors import ModelNotReady, ServerNotLive, ServerNotReady

from exfm.errors import (
    DataError,
    DeadlineError,
    ExfmError,
    LookupTooLargeError,
    NotReadyError,
    OverloadedError,
    RequestError,
    ShardUnavailableError,
    UnknownModelError,
    VersionMismatchError,
)

logger = logging.getLogger(__name__)

MAX_MESSAGE_CHARACTERS = 4_000
"""gRPC sends messages in headers, and clients refuse more than 8 KiB of those."""


@dataclass(frozen=True)
class Status:
    """An error's codes."""

    grpc: grpc.StatusCode
    http: int


_INTERNAL = Status(grpc.StatusCode.INTERNAL, 500)

_STATUSES: dict[type[BaseException], Status] = {
    DataError: Status(grpc.StatusCode.INVALID_ARGUMENT, 400),
    RequestError: Status(grpc.StatusCode.INVALID_ARGUMENT, 400),
    LookupTooLargeError: Status(grpc.StatusCode.OUT_OF_RANGE, 400),
    UnknownModelError: Status(grpc.StatusCode.NOT_FOUND, 404),
    VersionMismatchError: Status(grpc.StatusCode.FAILED_PRECONDITION, 412),
    NotReadyError: Status(grpc.StatusCode.UNAVAILABLE, 503),
    ShardUnavailableError: Status(grpc.StatusCode.UNAVAILABLE, 503),
    OverloadedError: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    DeadlineError: Status(grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    NotImplementedError: Status(grpc.StatusCode.UNIMPLEMENTED, 501),
    **dict.fromkeys((ModelNotReady, ServerNotLive, ServerNotReady), Status(grpc.StatusCode.UNAVAILABLE, 503)),
}


def status_of(error: BaseException) -> Status:
    """Return the codes of an error; one that nobody foresaw is internal."""
    return next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), _INTERNAL)


def message_of(error: BaseException) -> str:
    """Return what a client may read of an error, in ASCII; one that nobody foresaw goes to the log instead."""
    if status_of(error) is not _INTERNAL or isinstance(error, ExfmError):
        return str(error).encode("ascii", "backslashreplace").decode()[:MAX_MESSAGE_CHARACTERS]
    logger.error("internal error", exc_info=error)
    return "internal error; the server's log has its trace"
