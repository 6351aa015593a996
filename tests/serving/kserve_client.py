"""Run as a program: asks by kserve's own clients, and prints the scores of each as JSON.

Arguments: REST URL, gRPC address. On stdin: the request in JSON form.
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

NUMPY_TYPES = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64, "BYTES": np.object_}


def make_request(body: dict[str, Any], *, binary: bool) -> InferRequest:
    inputs = []
    for item in body["inputs"]:
        tensor = InferInput(item["name"], item["shape"], item["datatype"])
        tensor.set_data_from_numpy(np.array(item["data"], dtype=NUMPY_TYPES[item["datatype"]]), binary_data=binary)
        inputs.append(tensor)
    return InferRequest("students", inputs)


async def ask(rest_url: str, grpc_address: str, body: dict[str, Any]) -> dict[str, Any]:
    rest, grpc = InferenceRESTClient(RESTConfig(protocol="v2")), InferenceGRPCClient(grpc_address)
    answers = {
        "REST, JSON": await rest.infer(rest_url, make_request(body, binary=False), model_name="students"),
        "REST, binary": await rest.infer(rest_url, make_request(body, binary=True), model_name="students"),
        "gRPC, typed": await grpc.infer(make_request(body, binary=False)),
        "gRPC, raw": await grpc.infer(make_request(body, binary=True)),
    }
    await grpc.close()
    return {how: {one.name: one.as_numpy().tolist() for one in answer.outputs} for how, answer in answers.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(sys.argv[1], sys.argv[2], json.load(sys.stdin)))))
