"""Ranks: the processes that torchrun starts, one share of every batch each, and how their gradients meet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from foretell.errors import SpecError
from foretell.training.config import resolve_device


@dataclass(frozen=True)
class Ranks:
    """This process's place among `size` of them, and its device."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when all ranks have come here."""
        if self.size > 1:
            distributed.barrier()

    def require_even(self, batch: int, group: int) -> None:
        """Raise SpecError unless every rank gets as many groups as the others; their means would not add up."""
        if batch % (self.size * group):
            raise SpecError(f"a batch divisible by {self.size * group} expected for {self.size} ranks, got {batch}")

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over ranks, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        whole = torch.cat([g.reshape(-1) for g in gradients])
        distributed.all_reduce(whole)
        whole /= self.size
        means = torch.split(whole, [g.numel() for g in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether any rank says so."""
        if self.size == 1:
            return flag
        said = torch.tensor(float(flag), device=self.device)
        distributed.all_reduce(said)
        return bool(said > 0)

    @torch.no_grad()
    def average(self, values: Tensor) -> Tensor:
        """The mean of a tensor over ranks."""
        if self.size == 1:
            return values
        values = values.clone()
        distributed.all_reduce(values)
        return values / self.size


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started (NCCL on CUDA, gloo elsewhere), or this process alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    found = resolve_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield Ranks(found)
        return
    ours = not distributed.is_initialized()
    if found.type == "cuda":
        torch.cuda.set_device(found)
    if ours:
        distributed.init_process_group("nccl" if found.type == "cuda" else "gloo")
    try:
        yield Ranks(found, distributed.get_rank(), distributed.get_world_size())
    finally:
        if ours:
            distributed.destroy_process_group()
