"""Run in the client pod: asks a ranker over one gRPC connection, steadily, and says what came back.

Its argument NAME names NAME.in, JSON: address, model, request (the protocol's JSON form), scores (by version, then by
task), degraded_scores (the same, of answers flagged so), rate (requests a second), seconds (the longest that it goes
on) and deadline_s. It stops early when NAME.stop appears, and prints JSON: how many requests it sent, failures by their
text, answers by version, degraded ones by the tables that they name, wrong ones, and latencies. Nothing is sent twice,
but for gRPC's transparent retry of what no server has seen.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

CONTENTS = {"INT64": "int64_contents", "INT32": "int_contents", "FP32": "fp32_contents", "BYTES": "bytes_contents"}
TOLERANCE = 1e-3
MAX_SECONDS, MAX_RATE = 300, 1_000


def request_message(model: str, body: dict[str, Any]) -> Any:
    """Return a request in gRPC's form."""
    message = pb.ModelInferRequest(model_name=model)
    for item in body["inputs"]:
        values = [value.encode() if isinstance(value, str) else value for value in item["data"]]
        contents = pb.InferTensorContents(**{CONTENTS[item["datatype"]]: values})
        message.inputs.add(name=item["name"], datatype=item["datatype"], shape=item["shape"], contents=contents)
    return message


def scores_of(response: Any) -> dict[str, Any]:
    """Return an answer's scores by task."""
    import numpy as np

    return {
        output.name: np.frombuffer(raw, dtype=np.float32)
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }


def is_right(response: Any, expected: dict[str, list[float]]) -> bool:
    """Return whether an answer's scores are the expected ones."""
    found = scores_of(response)
    return found.keys() == expected.keys() and all(
        len(found[task]) == len(values)
        and max(abs(one - other) for one, other in zip(found[task], values, strict=True)) <= TOLERANCE
        for task, values in expected.items()
    )


async def load(settings: dict[str, Any], *, stop: Path) -> dict[str, Any]:
    """Send requests until told to stop, and return what came back."""
    message = request_message(settings["model"], settings["request"])
    failures: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    degraded: Counter[str] = Counter()
    latencies_ms: list[float] = []
    slowest_failure_s = 0.0
    wrong = 0
    order: list[str] = []
    async with grpc.aio.insecure_channel(settings["address"]) as channel:
        stub = GRPCInferenceServiceStub(channel)

        async def ask() -> None:
            nonlocal wrong, slowest_failure_s
            started_s = time.monotonic()
            try:
                response = await stub.ModelInfer(message, timeout=settings["deadline_s"])
            except grpc.aio.AioRpcError as error:
                failures[f"{error.code().name}: {error.details()}"] += 1
                slowest_failure_s = max(slowest_failure_s, time.monotonic() - started_s)
                return
            latencies_ms.append((time.monotonic() - started_s) * 1_000)
            version = response.model_version
            versions[version] += 1
            if version not in order[-1:]:
                order.append(version)
            scores = settings["scores"]
            if response.parameters["degraded"].bool_param:
                degraded[response.parameters["degraded_tables"].string_param] += 1
                scores = settings["degraded_scores"]
            if not is_right(response, scores.get(version, {})):
                wrong += 1

        period_s = 1 / min(settings["rate"], MAX_RATE)
        ends_s = time.monotonic() + min(settings["seconds"], MAX_SECONDS)
        next_s, asked = time.monotonic(), set()
        print("started", flush=True)
        while not stop.exists() and time.monotonic() < ends_s:
            task = asyncio.create_task(ask())
            asked.add(task)
            task.add_done_callback(asked.discard)
            next_s += period_s
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        await asyncio.gather(*asked)
    latencies_ms.sort()
    return {
        "num": sum(failures.values()) + sum(versions.values()),
        "failures": dict(failures),
        "slowest_failure_s": slowest_failure_s,
        "versions": dict(versions),
        "order": order,
        "degraded": dict(degraded),
        "wrong": wrong,
        "p50_ms": latencies_ms[len(latencies_ms) // 2] if latencies_ms else None,
        "p99_ms": latencies_ms[int(len(latencies_ms) * 0.99)] if latencies_ms else None,
    }


async def main(name: str) -> None:
    """Read the settings, and go on until told to stop."""
    settings = json.loads(Path(f"{name}.in").read_text(encoding="utf-8"))
    print(json.dumps(await load(settings, stop=Path(f"{name}.stop"))))
    print("finished", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
