"""What the servers serve: a model of one bundle, with limits on a request, and a limit on requests.

Models compute in the event loop, not in a thread: encoding and scoring 64 candidates take 0.6 ms, but handing them to a
thread and back raised the median request from 3.5 to 7 ms and its CPU time from 2.4 to 8 ms (two CPU cores, 2026-11),
because the threads wait for each other's GIL. The limits on a request bound how long the loop is held.
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


class Door(Protocol):
    """What takes requests in a protocol of its own."""

    async def start(self) -> int:
        """Start to serve, and return the port.

        Raises: ConfigError if the address cannot be had.
        """

    async def keep(self) -> None:
        """Do what is to be done beside the requests, until cancelled."""

    async def stop(self) -> None:
        """Take no more requests, and let those under way end."""


class ServedModel(ABC):
    """A model of one bundle. `predict` takes a Call and gives an Answer, whichever door the request came by."""

    begins_traces = True
    """Whether a request that is part of no trace may begin one, as OpenTelemetry's sampler chooses."""

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

    def doors(self) -> Sequence["Door"]:
        """Return the model's own doors, beside REST's and gRPC's."""
        return ()

    async def open(self) -> None:  # noqa: B027  # not all models need anything
        """Connect to what the model needs; called once, in the event loop."""

    def background(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return what runs beside the requests from `open` to `close`; an error of it ends the server."""
        return ()

    async def close(self) -> None:  # noqa: B027  # as `open`
        """Let go of what `open` took."""

    def to_inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a JSON request with the protocol's inputs, in the place of what else a model takes.

        Raises: RequestError if it is no request of this model.
        """
        return body

    def check_version(self, version: str) -> None:
        """Return if a request for `version` may be answered; empty leaves the choice to the server.

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
