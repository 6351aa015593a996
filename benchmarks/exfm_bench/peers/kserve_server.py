"""python -m kserve_server: the plain model by KServe's own server, as its documentation has custom predictors."""

import argparse
from pathlib import Path
from typing import Any

import grpc.aio._server
import kserve.model_server
import torch
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid
from plain_model import PlainModel

LOOPBACK = "127.0.0.1"


class PlainPredictor(Model):  # type: ignore[misc]  # kserve ships no types
    """The plain model."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self.model = PlainModel(folder)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        """Return the scores, in raw form where the request was."""
        scores = self.model.scores({one.name: one.as_numpy() for one in payload.inputs})
        output = InferOutput(name="click", datatype="FP32", shape=list(scores.shape))
        output.set_data_from_numpy(scores, binary_data=payload.from_grpc)
        return InferResponse(response_id=payload.id or generate_uuid(), model_name=self.name, infer_outputs=[output])


def listen_on_loopback() -> None:
    """Have KServe's servers, which bind to all addresses, bind to loopback: only the benchmark sends requests."""

    class RestServer(kserve.model_server.RESTServer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.config.host = LOOPBACK

    bind = grpc.aio._server.Server.add_insecure_port
    grpc.aio._server.Server.add_insecure_port = lambda self, address: bind(self, address.replace("[::]", LOOPBACK))
    kserve.model_server.RESTServer = RestServer


def main() -> None:
    """Serve; KServe reads its own options, such as --http_port."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=0, help="torch's; 0: its own default")
    arguments, _ = parser.parse_known_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    listen_on_loopback()
    ModelServer().start([PlainPredictor(arguments.model_name, arguments.folder)])


if __name__ == "__main__":
    main()
