"""Processes that have one model together: each has some of its tables, and all of its dense network.

Legend: B examples, T tasks.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from exfm.models.device import CPU, device_of

T = TypeVar("T")

TIMEOUT = timedelta(hours=2)
"""How long a rank waits for another, such as one that reads a window or keeps a state."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that have a model together.

    They call the same methods in the same order. A rank that ends makes the others fail.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    is_distributed: bool = False
    """Whether torch knows the processes; False: this one is alone."""

    @property
    def leads(self) -> bool:
        """Return whether this process decides what all do, reads the log, and commits."""
        return self.rank == 0

    def rows_of(self, num_rows: int) -> tuple[int, int]:
        """Return the start and end of this rank's part of a minibatch."""
        return self.rank * num_rows // self.size, (self.rank + 1) * num_rows // self.size

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
        lengths = ((rank + 1) * num_rows // self.size - rank * num_rows // self.size for rank in range(self.size))
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks."""
        if self.size > 1:
            flat = parameters_to_vector(tensors)
            dist.all_reduce(flat)
            vector_to_parameters(flat, tensors)

    def of_leader(self, value: T) -> T:
        """Return what the leader gave; what other ranks gave does not count."""
        box = [value]
        if self.size > 1:
            dist.broadcast_object_list(box, src=0, device=CPU)
        return box[0]

    def collect(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of all ranks by name, on the CPU; on others than the leader the own ones alone."""
        found = {name: tensor.detach().cpu() for name, tensor in own.items()}
        if self.size == 1:
            return found
        shapes: list[dict[str, tuple[torch.Size, torch.dtype]]] = [{}] * self.size
        dist.all_gather_object(shapes, {name: (tensor.shape, tensor.dtype) for name, tensor in found.items()})
        for rank, of_rank in enumerate(shapes[1:], start=1):
            for name, (shape, dtype) in of_rank.items():
                if self.leads:
                    dist.recv(found.setdefault(name, torch.empty(shape, dtype=dtype)), src=rank)
                elif self.rank == rank:
                    dist.send(found[name].contiguous(), dst=0)
        return found


ALONE = Ranks()


@contextmanager
def joined(*, gpu: bool) -> Iterator[Ranks]:
    """Yield this process's place among those that torchrun started, as its environment says.

    Raises: ConfigError if there is no GPU.
    """
    device = device_of("cuda" if gpu else "cpu")
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=TIMEOUT)
    try:
        if gpu:
            device = torch.device("cuda", dist.get_node_local_rank())
            torch.cuda.set_device(device)
        yield Ranks(rank=dist.get_rank(), size=dist.get_world_size(), device=device, is_distributed=True)
    finally:
        dist.destroy_process_group()
