"""Training steps as CUDA graphs: a small network is limited by kernel launches, which replaying a graph avoids.

Reference: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Losses = dict[str, Tensor]
Kind = TypeVar("Kind", bound=Hashable)
WARM_UP = 3  # eager runs before a capture, so that compilation and the autotuning of cuDNN and cuBLAS are done


class GraphedLoss(Generic[Kind]):
    """Computes a loss and its gradients; on a GPU by replaying a CUDA graph captured at the first batch of each kind.

    Args:
        loss_of: `loss_of(kind, batch)` returns named scalars, including "loss". On a GPU it must not depend on values
            (no data-dependent control flow or host sync), and all batches of one kind have the same names and shapes.
        model: gradients are set on its trainable parameters.
        graphs: False runs eagerly on a GPU too.
    """

    def __init__(
        self, loss_of: Callable[[Kind, Mapping[str, Tensor]], Losses], model: nn.Module, graphs: bool = True
    ) -> None:
        self.loss_of, self.graphs = loss_of, graphs
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._captured: dict[Kind, _Captured] = {}

    def __call__(self, kind: Kind, batch: Mapping[str, Tensor]) -> Losses:
        """Return the detached losses and set the gradients; a parameter that the loss does not reach gets None.

        Existing gradients are overwritten, not accumulated.
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
        self._clear_gradients()
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
        # With gradients set to None, the backward pass allocates them in the graph's memory pool, and every replay
        # rewrites them there.
        self._clear_gradients()
        graph = torch.cuda.CUDAGraph()
        # thread_local: NCCL's watchdog thread polls the GPU during the capture, which a global mode forbids
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            losses = self.loss_of(kind, static)
            losses["loss"].backward()
        kept = {name: value.detach() for name, value in losses.items()}
        return _Captured(graph, static, kept, [parameter.grad for parameter in self.parameters])

    def _clear_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class _Captured:
    def __init__(
        self, graph: torch.cuda.CUDAGraph, batch: dict[str, Tensor], losses: Losses, gradients: list[Tensor | None]
    ) -> None:
        self.graph, self.batch, self.losses, self.gradients = graph, batch, losses, gradients
