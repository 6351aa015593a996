"""The gRPC status code and the HTTP status of each error."""

import logging
from dataclasses import dataclass

import grpc
from prometheus_client import Counter

from exfm.errors import (
    BodyTooLargeError,
    DataError,
    DeadlineError,
    EncodingError,
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

FAILED = Counter(
    "exfm_failed_requests",
    "Requests of all protocols that failed, by gRPC's status code; CANCELLED: the client gave up",
    ["code"],
)

MAX_MESSAGE_CHARACTERS = 4_000
"""gRPC sends messages in headers, and clients refuse headers of more than 8 KiB."""


@dataclass(frozen=True)
class Status:
    """An error's codes."""

    grpc: grpc.StatusCode
    http: int


_INTERNAL = Status(grpc.StatusCode.INTERNAL, 500)

_STATUSES: dict[type[BaseException], Status] = {
    DataError: Status(grpc.StatusCode.INVALID_ARGUMENT, 400),
    RequestError: Status(grpc.StatusCode.INVALID_ARGUMENT, 400),
    BodyTooLargeError: Status(grpc.StatusCode.INVALID_ARGUMENT, 413),
    EncodingError: Status(grpc.StatusCode.INVALID_ARGUMENT, 415),
    LookupTooLargeError: Status(grpc.StatusCode.OUT_OF_RANGE, 400),
    UnknownModelError: Status(grpc.StatusCode.NOT_FOUND, 404),
    VersionMismatchError: Status(grpc.StatusCode.FAILED_PRECONDITION, 412),
    NotReadyError: Status(grpc.StatusCode.UNAVAILABLE, 503),
    ShardUnavailableError: Status(grpc.StatusCode.UNAVAILABLE, 503),
    OverloadedError: Status(grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    DeadlineError: Status(grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    NotImplementedError: Status(grpc.StatusCode.UNIMPLEMENTED, 501),
}


for _code in (grpc.StatusCode.CANCELLED, *(status.grpc for status in (*_STATUSES.values(), _INTERNAL))):
    FAILED.labels(code=_code.name)  # exported as 0 before the first failure


def failed_with(error: BaseException) -> tuple[Status, str]:
    """Return the status and the message, in ASCII, of a request's error for its client, and count it.

    An unexpected error is internal, and its message goes to the log only.
    """
    status = next((_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES), _INTERNAL)
    FAILED.labels(code=status.grpc.name).inc()
    if status is _INTERNAL and not isinstance(error, ExfmError):
        logger.error("internal error", exc_info=error)
        return status, "internal error; the server's log has its traceback"
    return status, str(error).encode("ascii", "backslashreplace").decode()[:MAX_MESSAGE_CHARACTERS]


def given_up() -> None:
    """Count a request whose client gave up."""
    FAILED.labels(code=grpc.StatusCode.CANCELLED.name).inc()
