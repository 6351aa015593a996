"""The models of a server, by name and version: KServe's DataPlane with our errors and whole metadata."""

from typing import Any, cast

from kserve.protocol.dataplane import DataPlane
from prometheus_client import Gauge

from exfm.errors import NotReadyError, UnknownModelError
from exfm.features.oip import chosen_outputs
from exfm.serving.call import Answer, Call
from exfm.serving.model import ServedModel

PLATFORM = "exfm"

UNANSWERED = {
    "ModelConfig": "there is no model config here; GET /v2/models/NAME, or ModelMetadata, names inputs and outputs",
    "RepositoryIndex": "there is no model repository here; GET /v2/models names this server's models",
}
"""Why Triton's extensions of the protocol are not answered, by gRPC's name of the method."""

READY = Gauge("exfm_ready", "1 while the server says that it is ready, else 0")


class ServedModels(DataPlane):  # type: ignore[misc]  # kserve ships no types
    """What both front doors ask."""

    is_leaving = False
    """Whether the server is about to stop: it answers, but says that it is not ready."""

    def show_ready(self) -> None:
        """Have the metrics tell whether all models are ready."""
        READY.set_function(lambda: all(map(self._is_ready, self.model_registry.get_models())))

    def find(self, name: str, *, version: str = "") -> ServedModel:
        """Return the model of a name.

        Raises: UnknownModelError; VersionMismatchError if it is not served in that version.
        """
        model = self.model_registry.get_model(name)
        if model is None:
            names = ", ".join(self.model_registry.get_models())
            raise UnknownModelError(f"no model {name!r:.80} here; this server has {names}")
        model = cast(ServedModel, model)
        model.check_version(version)
        return model

    async def ask(self, model: ServedModel, call: Call) -> Answer:
        """Return a model's answer, with the outputs that the call wants, timed by KServe's metrics.

        Raises: NotReadyError; RequestError if the call wants an output that the model has not; DeadlineError if nobody
        waits for it any more; what the model's predict raises.
        """
        if not model.ready:  # who asks it past its Service
            raise NotReadyError(f"{model.name} is not ready; ask it when it is")
        call.deadline.check("the request waited for others")
        if call.outputs:
            chosen_outputs(call.outputs, [output["name"] for output in model.get_output_types()])
        answer, _ = await model(call)
        return cast(Answer, answer).only(call.outputs)

    def metadata(self) -> dict[str, Any]:
        """Return the server's metadata."""
        return {**super().metadata(), "extensions": ["binary_tensor_data"]}

    async def ready(self) -> bool:
        """Return whether all models are ready, and stay so."""
        return all(map(self._is_ready, self.model_registry.get_models()))

    async def model_ready(self, model_name: str, disable_predictor_health_check: bool = True) -> bool:
        """Return whether a model is ready; the arguments are KServe's.

        Raises: UnknownModelError.
        """
        return self._is_ready(model_name)

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Return a model's metadata; KServe's own leaves version and platform empty.

        Raises: UnknownModelError.
        """
        model = self.find(model_name)
        return {
            "name": model.name,
            "versions": [model.bundle_id],
            "platform": PLATFORM,
            "inputs": model.get_input_types(),
            "outputs": model.get_output_types(),
        }

    def _is_ready(self, model_name: str) -> bool:
        return not self.is_leaving and bool(self.find(model_name).ready)
