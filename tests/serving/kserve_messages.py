"""Run as a program: loads kserve's messages beside ours, and prints what both are on the wire, as JSON."""

import json
from typing import Any

from kserve.protocol.grpc import grpc_predict_v2_pb2

from exfm.serving.oip.grpc import protobuf as oip_protobuf

REFUSED = ("RepositoryModelLoad", "RepositoryModelUnload")
"""Methods of KServe's that are not part of the protocol: exfm refuses them by name, without their messages."""


def described(messages: Any) -> dict[str, Any]:
    """Return what makes the wire format of messages, by name: their fields' numbers, types and choices."""
    return {
        name: {
            "nested": described(message.nested_types_by_name),
            "is_map": message.GetOptions().map_entry,
            "fields": {
                field.name: [
                    field.number, field.type, field.is_repeated, field.is_packed,
                    field.message_type and field.message_type.full_name,
                    field.containing_oneof and field.containing_oneof.name,
                ]
                for field in message.fields
            },
        }
        for name, message in messages.items()
    }  # fmt: skip


if __name__ == "__main__":
    theirs, ours = grpc_predict_v2_pb2.DESCRIPTOR, oip_protobuf.ModelInferRequest.DESCRIPTOR.file
    methods = {method.name for method in theirs.services_by_name["GRPCInferenceService"].methods} - {*REFUSED}
    messages = {name: message for name, message in theirs.message_types_by_name.items() if not name.startswith(REFUSED)}
    print(json.dumps([
        {"messages": described(messages), "methods": sorted(methods)},
        {"messages": described(ours.message_types_by_name), "methods": sorted(oip_protobuf.METHODS)},
    ]))  # fmt: skip
