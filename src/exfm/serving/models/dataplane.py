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
"""Why Triton's extensions of the protocol are not answered, by gRPC's name of the method."""

READY = Gauge("exfm_ready", "1 while the server says that it is ready, else 0")


class ServedModels:
    """What both front doors ask."""

    is_leaving = False
    """Whether the server is about to stop: it answers, but says that it is not ready."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        """Serve these, and have the metrics tell whether all are ready."""
        self._models = {model.name: model for model in models}
        READY.set_function(self.ready)

    def names(self) -> list[str]:
        """Return the models' names."""
        return list(self._models)

    def find(self, name: str, *, version: str = "") -> ServedModel:
        """Return the model of a name.

        Raises: UnknownModelError; VersionMismatchError if it is not served in that version.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(f"no model {name!r:.80} here; this server has {', '.join(self._models)}")
        model.check_version(version)
        return model

    async def ask(self, model: ServedModel, call: Call) -> Answer:
        """Return a model's answer, with the outputs that the call wants.

        Raises: NotReadyError; RequestError if the call wants an output that the model has not; DeadlineError if nobody
        waits for it any more; what the model's predict raises.
        """
        if not model.ready:  # who asks it past its Service
            raise NotReadyError(f"{model.name} is not ready; ask it when it is")
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
        """Return whether all models are ready, and stay so."""
        return all(map(self.model_ready, self._models.values()))

    def model_ready(self, model: ServedModel) -> bool:
        """Return whether a model is ready, and stays so."""
        return not self.is_leaving and model.ready

    def model_metadata(self, model: ServedModel) -> dict[str, Any]:
        """Return a model's metadata."""
        return {
            "name": model.name,
            "versions": [model.bundle_id],
            "platform": PLATFORM,
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
        }
