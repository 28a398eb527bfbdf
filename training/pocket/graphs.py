"""A training step as a CUDA graph: small networks wait for the processor that launches their kernels, a graph does not.

Reference: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
Kind = TypeVar("Kind", bound=Hashable)
WARM_UP = 3  # runs before a capture, in which compilation, cuDNN and cuBLAS settle


class GraphedLoss(Generic[Kind]):
    """Computes a loss with its gradients; on a GPU by replaying what was captured when its kind was first seen.

    Args:
        loss_of: `loss_of(kind, batch)` gives named scalars, "loss" among them. On a GPU it must not look at data, and
            every batch of one kind has the same names and shapes.
        model: whose gradients are set.
        graphs: False computes on a GPU as on a CPU.
    """

    def __init__(
        self, loss_of: Callable[[Kind, Mapping[str, Tensor]], Losses], model: nn.Module, graphs: bool = True
    ) -> None:
        self.loss_of, self.graphs = loss_of, graphs
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._captured: dict[Kind, _Captured] = {}

    def __call__(self, kind: Kind, batch: Mapping[str, Tensor]) -> Losses:
        """The losses, detached; the gradients are in the parameters, each None where the loss does not reach it.

        Gradients left in the parameters are replaced.
        """
        if not (self.graphs and next(iter(batch.values())).is_cuda):
            return self._eager(kind, batch)
        if kind not in self._captured:
            self._captured[kind] = self._capture(kind, batch)
        captured = self._captured[kind]
        for name, value in batch.items():
            captured.batch[name].copy_(value)
        captured.graph.replay()
        for parameter, gradient in zip(self.parameters, captured.gradients, strict=True):
            parameter.grad = gradient
        return captured.losses

    def _eager(self, kind: Kind, batch: Mapping[str, Tensor]) -> Losses:
        self._forget()
        losses = self.loss_of(kind, batch)
        losses["loss"].backward()
        return {name: value.detach() for name, value in losses.items()}

    def _capture(self, kind: Kind, batch: Mapping[str, Tensor]) -> "_Captured":
        static = {name: value.clone() for name, value in batch.items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._eager(kind, static)
        torch.cuda.current_stream().wait_stream(stream)
        # with no gradient there, the backward pass makes them in the graph's own memory, and each replay anew
        self._forget()
        graph = torch.cuda.CUDAGraph()
        # other threads may go on: one of NCCL's asks the GPU all the time how far it is
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            losses = self.loss_of(kind, static)
            losses["loss"].backward()
        kept = {name: value.detach() for name, value in losses.items()}
        return _Captured(graph, static, kept, [parameter.grad for parameter in self.parameters])

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class _Captured:
    def __init__(
        self, graph: torch.cuda.CUDAGraph, batch: dict[str, Tensor], losses: Losses, gradients: list[Tensor | None]
    ) -> None:
        self.graph, self.batch, self.losses, self.gradients = graph, batch, losses, gradients
