"""What a ranker and a shard say to each other: one ModelInfer a request, every tensor in raw form.

Request, for each net that the shard has lookups for (in the order of exfm.models.lookup.lookups_of):

    <net>.keys     UINT64 [K]     keys of the first lookup's bags, row after row, then of the next lookup's
    <net>.lengths  INT32 [L, B]   keys of each of the L lookups' bags, B rows of the net
    <net>.lookups  INT32 [L]      only where some are left out: the places of these L among all lookups, rising

Answer, for each net one of:

    <net>.sums     FP32 or FP16 [B, E], the lookups' dims side by side
    <net>.rows     UINT8 [n], the rows of all keys in their order, as the shard keeps them

Request and answer name the bundle as model version.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from exfm.artifact.answers import SumsType
from exfm.artifact.rows import Keys
from exfm.errors import RequestError, ServingError
from exfm.features.oip import Tensor
from exfm.models.lookup import LookupBags
from exfm.schema import NETS, Net
from exfm.serving.messages import RawResponse, tensors_of
from exfm.serving.wire import raw_numbers

SUMS_TYPES: dict[SumsType, str] = {"fp32": "FP32", "fp16": "FP16"}
"""The datatypes that sums may have."""

ROWS_TYPE = "UINT8"
"""That of rows."""


def shard_model_name(bundle: str, shard: int) -> str:
    """Return the name of a shard's model."""
    return f"{bundle}-shard-{shard}"


def keys_input(net: Net) -> str:
    """Return the name of the input with a net's keys."""
    return f"{net}.keys"


def lengths_input(net: Net) -> str:
    """Return the name of the input with the lengths of a net's bags."""
    return f"{net}.lengths"


def lookups_input(net: Net) -> str:
    """Return the name of the input with the places of the lookups that are asked for."""
    return f"{net}.lookups"


def sums_output(net: Net) -> str:
    """Return the name of the output with a net's sums."""
    return f"{net}.sums"


def rows_output(net: Net) -> str:
    """Return the name of the output with a net's rows."""
    return f"{net}.rows"


def answer_outputs(answers: Mapping[Net, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return what a shard answers of each net, by the name of the output."""
    return {
        rows_output(net) if of_net.dtype == np.uint8 else sums_output(net): of_net for net, of_net in answers.items()
    }


def shard_request(bags: Mapping[Net, LookupBags], *, model_name: str, bundle_id: str) -> Any:
    """Return the ModelInferRequest for these bags."""
    request = pb.ModelInferRequest(model_name=model_name, model_version=bundle_id)
    for net, of_net in bags.items():
        request.inputs.add(name=keys_input(net), datatype="UINT64", shape=of_net.keys.shape)
        request.raw_input_contents.append(raw_numbers(of_net.keys))
        request.inputs.add(name=lengths_input(net), datatype="INT32", shape=of_net.lengths_LB.shape)
        request.raw_input_contents.append(raw_numbers(of_net.lengths_LB))
        if of_net.only is not None:
            request.inputs.add(name=lookups_input(net), datatype="INT32", shape=[len(of_net.only)])
            request.raw_input_contents.append(raw_numbers(np.array(of_net.only, dtype=np.int32)))
    return request


def bags_of(tensors: Mapping[str, Tensor], net: Net, *, num_lookups: int) -> LookupBags:
    """Return one net's bags out of a request's tensors, for a shard of so many lookups.

    Raises: RequestError, which names the input, what was found and what was expected.
    """
    keys = _input(tensors, keys_input(net), datatype="UINT64", num_dimensions=1).values
    lengths_LB = _input(tensors, lengths_input(net), datatype="INT32", num_dimensions=2).values
    only = None
    if lookups_input(net) in tensors:
        only = _input(tensors, lookups_input(net), datatype="INT32", num_dimensions=1).values
    return checked_bags(keys, lengths_LB, only, net=net, num_lookups=num_lookups)


def checked_bags(
    keys: Keys,
    lengths_LB: npt.NDArray[np.int32],
    only: npt.NDArray[np.int32] | None,
    *,
    net: Net,
    num_lookups: int,
) -> LookupBags:
    """Return the bags of these keys and lengths, for a shard of so many lookups, or some of these; nothing is copied.

    Raises: RequestError if there are other lookups than that, or the lengths are not those of the keys.
    """
    if only is not None and not _rise(only, below=num_lookups):
        raise RequestError(
            f"input {lookups_input(net)!r} is {only.tolist()!s:.80}, expected rising places among {num_lookups} lookups"
        )
    num_asked = num_lookups if only is None else len(only)
    if len(lengths_LB) != num_asked:
        raise RequestError(
            f"input {lengths_input(net)!r} has lengths for {len(lengths_LB)} lookups; "
            + (f"this shard has {num_lookups}" if only is None else f"{lookups_input(net)!r} has {num_asked}")
        )
    if lengths_LB.min(initial=0) < 0 or lengths_LB.sum() != len(keys):
        raise RequestError(
            f"input {lengths_input(net)!r} sums to {lengths_LB.sum()} (least {lengths_LB.min(initial=0)}), "
            f"but {keys_input(net)!r} has {len(keys)} keys"
        )
    return LookupBags(keys=keys, lengths_LB=lengths_LB, only=None if only is None else tuple(only.tolist()))


def _rise(places: npt.NDArray[np.int32], *, below: int) -> bool:
    within = places.min(initial=0) >= 0 and places.max(initial=0) < below
    return bool(within and (places[1:] > places[:-1]).all())


def answers_of(response: RawResponse) -> dict[Net, torch.Tensor]:
    """Return each net's sums [B, E], or rows uint8 [n], out of a ModelInferResponse.

    Raises: ServingError if the answer is not of the form above.
    """
    shard = response.head.model_name
    try:
        tensors = tensors_of(response)
    except RequestError as error:
        raise ServingError(f"{shard} answered malformed tensors: {error}") from error
    answers: dict[Net, torch.Tensor] = {}
    for net in NETS:
        for name, datatypes in ((sums_output(net), tuple(SUMS_TYPES.values())), (rows_output(net), (ROWS_TYPE,))):
            tensor = tensors.get(name)
            if tensor is None:
                continue
            if tensor.datatype not in datatypes:
                raise ServingError(f"{shard} answered {tensor.datatype} for {name}, expected {' or '.join(datatypes)}")
            answers[net] = torch.from_numpy(tensor.values.copy())  # torch warns of memory that it must not write to
    return answers


def _input(tensors: Mapping[str, Tensor], name: str, *, datatype: str, num_dimensions: int) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise RequestError(f"input {name!r} is missing; there are {', '.join(tensors) or 'none'}")
    if tensor.datatype != datatype or tensor.values.ndim != num_dimensions:
        raise RequestError(
            f"input {name!r} is {tensor.datatype} {list(tensor.values.shape)}, "
            f"expected {datatype} of {num_dimensions} dimensions"
        )
    return tensor
