"""The plain model as a custom runtime of MLServer, as its documentation has them; for an environment of its own."""

from pathlib import Path

import torch
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from plain_model import PlainModel


class PlainRuntime(MLModel):  # type: ignore[misc]  # not installed where types are checked
    """The plain model."""

    async def load(self) -> bool:
        """Read the model that the settings' URI names."""
        threads = self.settings.parameters.extra.get("threads", 0)
        if threads:
            torch.set_num_threads(threads)
        self.model = PlainModel(Path(self.settings.parameters.uri))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the scores."""
        scores = self.model.scores({one.name: NumpyCodec.decode_input(one).ravel() for one in payload.inputs})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("click", scores)])
