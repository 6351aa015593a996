"""Processes that train one model together: each holds some tables and the whole dense network.

Where a method waits for other ranks, it raises RuntimeError if one of them is lost.

Legend: B examples, T tasks.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from exfm.errors import ConfigError
from exfm.models.device import CPU

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""How long a rank waits for another, such as one that reads a window or keeps a state."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that train a model together.

    All call the same methods in the same order.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    is_distributed: bool = False
    """Whether a torch process group exists; False: this process trains alone."""

    @property
    def leads(self) -> bool:
        """Return whether this process decides what all do, reads the log, and commits."""
        return self.rank == 0

    def rows_of(self, num_rows: int) -> tuple[int, int]:
        """Return the start and end of this rank's part of a minibatch."""
        return _rows_of(self.rank, self.size, num_rows)

    def all_rows(self, own_BT: Tensor, num_rows: int) -> Tensor:
        """Return all rows of a minibatch on the CPU, from each rank's own part; [B, T]."""
        own_BT = own_BT.cpu()
        if self.size == 1:
            return own_BT
        longest = -(-num_rows // self.size)
        padded = torch.zeros(longest, own_BT.shape[1])
        padded[: len(own_BT)] = own_BT
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        ranges = (_rows_of(rank, self.size, num_rows) for rank in range(self.size))
        return torch.cat([part[: end - start] for part, (start, end) in zip(parts, ranges, strict=True)])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace the data of each tensor by its sum over all ranks, which have tensors of the same shapes."""
        if self.size > 1:
            flat = parameters_to_vector(tensors)
            dist.all_reduce(flat)
            vector_to_parameters(flat, tensors)

    def of_leader(self, value: T) -> T:
        """Return the leader's value; the values of other ranks are ignored."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def collect(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of all ranks by name, on the CPU, on the leader; other ranks return their own.

        Of a tensor that several ranks have, the leader's counts, or else that of the lowest rank.
        """
        found = {name: tensor.detach().cpu() for name, tensor in own.items()}
        if self.size == 1:
            return found
        shapes: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{}] * self.size
        dist.all_gather_object(shapes, {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()})
        taken = set(shapes[0])
        for rank, of_rank in enumerate(shapes[1:], start=1):
            for name, (shape, dtype) in of_rank.items():
                if name in taken:
                    continue
                taken.add(name)
                if self.leads:
                    found[name] = torch.empty(shape, dtype=dtype)
                    dist.recv(found[name], src=rank)
                elif self.rank == rank:
                    dist.send(found[name].contiguous(), dst=0)
        return found


ALONE = Ranks()


@contextmanager
def joined(*, gpu: bool) -> Iterator[Ranks]:
    """Yield this process's place among those that torchrun started, as its environment says.

    Raises: ConfigError if there is no GPU for it.
    """
    place, of_node = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if gpu and torch.cuda.device_count() < of_node:
        raise ConfigError(
            f"training.gpu is true, but torch {torch.__version__} finds {torch.cuda.device_count()} GPUs for {of_node} "
            "processes of this node; set it to false, lower processes_per_node, or use nodes with GPUs and the image "
            "for CUDA"
        )
    device = torch.device("cuda", place) if gpu else CPU
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(rank=dist.get_rank(), size=dist.get_world_size(), device=device, is_distributed=True)
    finally:
        dist.destroy_process_group()


def _rows_of(rank: int, size: int, num_rows: int) -> tuple[int, int]:
    return rank * num_rows // size, (rank + 1) * num_rows // size
