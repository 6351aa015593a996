"""A model of one bundle, with limits on the size and the number of requests.

Models compute in the event loop, not in a thread: threads would wait for each other's GIL, which doubled the median
latency. The limits on a request's size bound how long the loop is busy.
"""

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import Gauge

from exfm.errors import NotReadyError, RequestError, UnknownModelError, VersionMismatchError
from exfm.features.oip import chosen_outputs
from exfm.serving.config import ServerConfig
from exfm.serving.profiler.spans import Spans
from exfm.serving.requests.admission import Admission
from exfm.serving.requests.call import Answer, Call, check_num_values
from exfm.serving.requests.latency import PREDICT_SECONDS, REQUEST_SECONDS

PLATFORM = "exfm"

SERVER_METADATA = {"name": PLATFORM, "version": version("exfm"), "extensions": ["binary_tensor_data"]}

UNANSWERED = {
    "ModelConfig": "there is no model config here; GET /v2/models/NAME, or ModelMetadata, names inputs and outputs",
    "RepositoryIndex": "there is no model repository here; GET /v2/models names this server's models",
    "RepositoryModelLoad": "models are loaded when the server starts; start another",
    "RepositoryModelUnload": "models are unloaded when the server stops; stop it",
}
"""Why extensions of the protocol are refused, by the gRPC method's name."""

READY = Gauge("exfm_ready", "1 while the server is ready, else 0")


class ServedModel(ABC):
    """A model of one bundle. `predict` takes a Call and returns an Answer, for all protocols."""

    begins_traces = True
    """Whether OpenTelemetry's sampler may begin a trace for a request that is part of none."""
    is_stopping = False
    """Whether the server is about to stop: it still answers, but is not ready."""

    def __init__(self, name: str, *, bundle_id: str, config: ServerConfig) -> None:
        self.name = name
        self.bundle_id = bundle_id
        self.config = config
        self.admission = Admission(name, max_concurrency=config.limits.max_concurrency)
        self.seconds = REQUEST_SECONDS.labels(model=name)  # exported as 0 before the first request, as the next
        self.predict_seconds = PREDICT_SECONDS.labels(model_name=name)
        self.spans = Spans.from_environment(service=name, begins_traces=self.begins_traces)
        self.ready = True

    @property
    def is_ready(self) -> bool:
        """Return whether the model answers requests and the server is not stopping."""
        return self.ready and not self.is_stopping

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

    async def answer(self, call: Call) -> Answer:
        """Return the answer to a call, with the requested outputs.

        Raises: NotReadyError; RequestError if the model lacks a requested output; DeadlineError if the deadline has
        passed; as `predict`.
        """
        if not self.ready:  # a client that does not connect through the Service
            raise NotReadyError(f"{self.name} is not ready; try again when it is")
        call.deadline.check("the request waited for others")
        if call.outputs:
            chosen_outputs(call.outputs, [output["name"] for output in self.get_output_types()])
        with self.predict_seconds.time():
            answer = await self.predict(call)
        return answer.only(call.outputs)

    def metadata(self) -> dict[str, Any]:
        """Return the model's metadata."""
        return {
            "name": self.name,
            "versions": [self.bundle_id],
            "platform": PLATFORM,
            "inputs": self.get_input_types(),
            "outputs": self.get_output_types(),
        }

    async def open(self) -> None:  # noqa: B027  # not all models need anything
        """Connect to what the model needs, and serve its own protocols; called once, in the event loop."""

    def background(self) -> Sequence[Coroutine[Any, Any, None]]:
        """Return tasks that run from `open` to `close`; an error of a task ends the server."""
        return ()

    async def stop(self) -> None:  # noqa: B027  # as `open`
        """Take no new request by the model's own protocols, and let those under way end."""

    async def close(self) -> None:  # noqa: B027  # as `open`
        """Release what `open` took."""

    def to_inputs(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return a JSON request with the protocol's inputs, converted from the model's own form, if it has one.

        Raises: RequestError if the body is malformed.
        """
        return body

    def check_request(self, name: str, *, version: str) -> None:
        """Return if a request for this model and version may be answered; an empty version is any.

        Raises: UnknownModelError; VersionMismatchError.
        """
        if name != self.name:
            raise UnknownModelError(f"no model {name!r:.80} here; this server has {self.name}")
        self.check_version(version)

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
            raise RequestError(f"the request has {num_rows} {kind}; max_candidates is {limit}: send it in parts")
