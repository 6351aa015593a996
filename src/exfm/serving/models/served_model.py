"""A model of one bundle, with limits on the size and the number of requests.

Models compute in the event loop, not in a thread: threads would wait for each other's GIL, which doubled the median
latency. The limits on a request's size bound how long the loop is busy.
"""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from exfm.errors import RequestError, VersionMismatchError
from exfm.serving.config import ServerConfig
from exfm.serving.profiler.spans import Spans
from exfm.serving.requests.admission import Admission
from exfm.serving.requests.call import Answer, Call, check_num_values
from exfm.serving.requests.latency import RequestSeconds


class ProtocolServer(Protocol):
    """Serves a model by another protocol than REST and gRPC."""

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address is not free.
        """

    async def keep(self) -> None:
        """Do maintenance beside the requests, until cancelled."""

    async def stop(self) -> None:
        """Take no new request, and let those under way end."""


class ServedModel(ABC):
    """A model of one bundle. `predict` takes a Call and returns an Answer, for all protocols."""

    begins_traces = True
    """Whether OpenTelemetry's sampler may begin a trace for a request that is part of none."""

    def __init__(self, name: str, *, bundle_id: str, config: ServerConfig) -> None:
        self.name = name
        self.bundle_id = bundle_id
        self.config = config
        self.admission = Admission(name, max_concurrency=config.limits.max_concurrency)
        self.seconds = RequestSeconds(name)
        self.spans = Spans.from_environment(service=name, begins_traces=self.begins_traces)
        self.ready = True

    @abstractmethod
    def get_input_types(self) -> list[dict[str, Any]]:
        """Return name, datatype and shape of each input."""

    @abstractmethod
    def get_output_types(self) -> list[dict[str, Any]]:
        """Return name, datatype and shape of each output."""

    @abstractmethod
    async def predict(self, call: Call) -> Answer:
        """Return the answer to a call.

        Raises: RequestError, DataError, ServingError.
        """

    def protocol_servers(self) -> Sequence["ProtocolServer"]:
        """Return the model's servers of other protocols than REST and gRPC."""
        return ()

    async def open(self) -> None:  # noqa: B027  # not all models need anything
        """Connect to what the model needs; called once, in the event loop."""

    def background(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return tasks that run from `open` to `close`; an error of a task ends the server."""
        return ()

    async def close(self) -> None:  # noqa: B027  # as `open`
        """Release what `open` took."""

    def to_inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a JSON request with the protocol's inputs, converted from the model's own form, if it has one.

        Raises: RequestError if the body is malformed.
        """
        return body

    def check_version(self, version: str) -> None:
        """Return if a request for `version` may be answered; empty: any.

        Raises: VersionMismatchError.
        """
        if version not in {"", self.bundle_id}:
            raise VersionMismatchError(
                f"model {self.name!r} is served from bundle {self.bundle_id}, but the request is for {version!r:.80}; "
                "servers of one model must all serve one bundle"
            )

    def check_size(self, num_values: int) -> None:
        """Return if a request's inputs hold no more values than allowed.

        Raises: RequestError.
        """
        check_num_values(num_values, max_ids=self.config.limits.max_ids)

    def check_rows(self, num_rows: int, *, kind: str) -> None:
        """Return if a request has no more users or items than allowed.

        Raises: RequestError.
        """
        if num_rows > self.config.limits.max_candidates:
            limit = self.config.limits.max_candidates
            raise RequestError(f"the request has {num_rows} {kind}; max_candidates is {limit}: ask in parts")
