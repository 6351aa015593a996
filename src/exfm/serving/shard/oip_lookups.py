"""A lookup by the Open Inference Protocol: one ModelInfer request to a shard, for people and tests.

Rankers send the same by streams (exfm.serving.shard_protocol.frames).

Request, for each net that the shard has lookups for (in the order of exfm.models.lookup.lookups_of):

    <net>.keys     UINT64 [K]     keys of the first lookup's bags, row after row, then of the next lookup's
    <net>.lengths  INT32 [L, B]   keys of each of the L lookups' bags, B rows of the net
    <net>.lookups  INT32 [L]      only if some are left out: the positions of these L among all lookups, rising

Answer, for each net:

    <net>.pooled   FP32 or FP16 [B, E], the lookups' dims side by side

Request and answer name the bundle as model version.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from exfm.artifact.rows import Keys
from exfm.errors import RequestError
from exfm.features.oip import Tensor
from exfm.models.lookup import LookupBags
from exfm.schema import Net


def bags_of(tensors: Mapping[str, Tensor], net: Net, *, num_lookups: int) -> LookupBags:
    """Return one net's bags from a request's tensors, for a shard with `num_lookups` lookups of the net.

    Raises: RequestError, which names the input, what was found and what was expected.
    """
    keys = _input(tensors, f"{net}.keys", datatype="UINT64", num_dimensions=1).values
    lengths_LB = _input(tensors, f"{net}.lengths", datatype="INT32", num_dimensions=2).values
    only = None
    if f"{net}.lookups" in tensors:
        only = _input(tensors, f"{net}.lookups", datatype="INT32", num_dimensions=1).values
    return checked_bags(keys, lengths_LB, only, net=net, num_lookups=num_lookups)


def checked_bags(
    keys: Keys,
    lengths_LB: npt.NDArray[np.int32],
    only: npt.NDArray[np.int32] | None,
    *,
    net: Net,
    num_lookups: int,
) -> LookupBags:
    """Return the bags of these keys and lengths, without a copy; `only` has the positions if some are left out.

    Raises: RequestError if the lookups are not the shard's, or keys and lengths contradict each other.
    """
    if only is not None and not _rise(only, below=num_lookups):
        raise RequestError(
            f"input '{net}.lookups' is {only.tolist()!s:.80}, expected rising positions of {num_lookups} lookups"
        )
    num_expected = num_lookups if only is None else len(only)
    if len(lengths_LB) != num_expected:
        raise RequestError(
            f"input '{net}.lengths' has lengths for {len(lengths_LB)} lookups; "
            + (f"this shard has {num_lookups}" if only is None else f"'{net}.lookups' has {num_expected}")
        )
    if lengths_LB.min(initial=0) < 0 or lengths_LB.sum() != len(keys):
        raise RequestError(
            f"input '{net}.lengths' sums to {lengths_LB.sum()} (least {lengths_LB.min(initial=0)}), "
            f"but '{net}.keys' has {len(keys)} keys"
        )
    return LookupBags(keys=keys, lengths_LB=lengths_LB, only=None if only is None else tuple(only.tolist()))


def _rise(places: npt.NDArray[np.int32], *, below: int) -> bool:
    within = places.min(initial=0) >= 0 and places.max(initial=0) < below
    return bool(within and (places[1:] > places[:-1]).all())


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
