"""Runs in the client pod and asks rankers, steadily, each over one gRPC connection; says what came back.

python client.py FOLDER: a file NAME.in in the folder is a load, JSON: address, model, request (the protocol's JSON
form), scores (by version, then by task), degraded_scores (the same, of answers flagged so), rate (requests a second),
seconds (the longest that it goes on) and deadline_s. NAME.started appears when it has sent requests for a second; it
stops early when NAME.stop appears. NAME.out is then JSON: how many requests it sent, failures by their text, answers by
version, degraded ones by the tables that they name, wrong ones, and latencies. Nothing is sent twice, but for gRPC's
transparent retry of what no server has seen. Loads run beside each other, with imports that they share.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from exfm.serving.oip.grpc import protobuf as pb
from exfm.serving.oip.grpc.protobuf import INFER_METHOD

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


async def load(settings: dict[str, Any], *, started: Path, stop: Path) -> dict[str, Any]:
    """Send requests until told to stop, and return what came back."""
    message = request_message(settings["model"], settings["request"])
    failures: Counter[str] = Counter()
    versions: Counter[str] = Counter()
    degraded: Counter[str] = Counter()
    latencies_ms: list[float] = []
    slowest_failure_s = 0.0
    wrong = 0
    order: list[str] = []
    own_connection = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(settings["address"], options=own_connection) as channel:
        infer = channel.unary_unary(
            INFER_METHOD,
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        async def ask() -> None:
            nonlocal wrong, slowest_failure_s
            started_s = time.monotonic()
            try:
                response = await infer(message, timeout=settings["deadline_s"])
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
        began_s = next_s = time.monotonic()
        ends_s = began_s + min(settings["seconds"], MAX_SECONDS)
        asked = set()
        while not stop.exists() and time.monotonic() < ends_s:
            if time.monotonic() > began_s + 1:
                started.write_text("yes")
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


async def serve(folder: Path) -> None:
    """Run every load that appears, without end."""
    running: dict[Path, asyncio.Task[None]] = {}
    while True:
        for given in set(folder.glob("*.in")) - running.keys():
            running[given] = asyncio.create_task(run(given))
        await asyncio.sleep(0.05)


async def run(given: Path) -> None:
    """Run one load, and write what came of it: in the end, whole."""
    settings = json.loads(given.read_text(encoding="utf-8"))
    found = await load(settings, started=given.with_suffix(".started"), stop=given.with_suffix(".stop"))
    unfinished = given.with_suffix(".partial")
    unfinished.write_text(json.dumps(found), encoding="utf-8")
    unfinished.rename(given.with_suffix(".out"))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
