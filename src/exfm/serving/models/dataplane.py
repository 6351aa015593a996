"""The models of a server, by name and version."""

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from prometheus_client import Gauge

from exfm.errors import NotReadyError, UnknownModelError
from exfm.features.oip import chosen_outputs
from exfm.serving.models.served_model import ServedModel
from exfm.serving.requests.call import Answer, Call

PLATFORM = "exfm"

UNANSWERED = {
    "ModelConfig": "there is no model config here; GET /v2/models/NAME, or ModelMetadata, names inputs and outputs",
    "RepositoryIndex": "there is no model repository here; GET /v2/models names this server's models",
}
"""Why Triton's extensions of the protocol are refused, by the gRPC method's name."""

READY = Gauge("exfm_ready", "1 while the server is ready, else 0")


class ServedModels:
    """A server's models, for all protocols."""

    is_stopping = False
    """Whether the server is about to stop: it still answers, but is not ready."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        """Serve these models, and set the metric of readiness."""
        self._models = {model.name: model for model in models}
        READY.set_function(self.ready)

    def names(self) -> list[str]:
        """Return the models' names."""
        return list(self._models)

    def find(self, name: str, *, version: str = "") -> ServedModel:
        """Return the model with this name.

        Raises: UnknownModelError; VersionMismatchError if another version is served.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(f"no model {name!r:.80} here; this server has {', '.join(self._models)}")
        model.check_version(version)
        return model

    async def ask(self, model: ServedModel, call: Call) -> Answer:
        """Return a model's answer, with the requested outputs.

        Raises: NotReadyError; RequestError if the model lacks a requested output; DeadlineError if the deadline has
        passed; what the model's predict raises.
        """
        if not model.ready:  # a client that does not connect through the Service
            raise NotReadyError(f"{model.name} is not ready; try again when it is")
        call.deadline.check("the request waited for others")
        if call.outputs:
            chosen_outputs(call.outputs, [output["name"] for output in model.get_output_types()])
        with model.seconds.predicting():
            answer = await model.predict(call)
        return answer.only(call.outputs)

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata."""
        return {"name": PLATFORM, "version": version("exfm"), "extensions": ["binary_tensor_data"]}

    def ready(self) -> bool:
        """Return whether all models are ready and the server is not stopping."""
        return all(map(self.model_ready, self._models.values()))

    def model_ready(self, model: ServedModel) -> bool:
        """Return whether a model is ready and the server is not stopping."""
        return not self.is_stopping and model.ready

    def model_metadata(self, model: ServedModel) -> dict[str, Any]:
        """Return a model's metadata."""
        return {
            "name": model.name,
            "versions": [model.bundle_id],
            "platform": PLATFORM,
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
        }
