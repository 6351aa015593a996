"""The protocol's messages are those that clients know, and stand beside theirs in one process."""

import json
import subprocess
import sys
from pathlib import Path

from tritonclient.grpc import service_pb2

from exfm.serving.oip.grpc import protobuf as pb


def test_the_protocols_messages_and_methods_are_kserves_and_both_may_be_in_one_process() -> None:
    program = [sys.executable, str(Path(__file__).parent / "kserve_messages.py")]
    theirs, ours = json.loads(subprocess.run(program, capture_output=True, check=True).stdout)
    assert ours == theirs


def test_a_request_of_tritons_client_is_read_as_it_was_meant_in_the_same_process() -> None:
    theirs = service_pb2.ModelInferRequest(model_name="m", model_version="v", id="i", raw_input_contents=[b"abc"])
    theirs.parameters["timeout"].int64_param = 7
    theirs.inputs.add(name="x", datatype="INT64", shape=[2]).contents.int64_contents.extend([-1, 2**62])
    theirs.outputs.add(name="y")
    ours = pb.ModelInferRequest.FromString(theirs.SerializeToString())
    assert str(ours) == str(theirs)
    assert service_pb2.ModelInferRequest.FromString(ours.SerializeToString()) == theirs
