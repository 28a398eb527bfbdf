"""The optimizer's moments where processes share them: whole for a checkpoint, and taken apart again after one.

DeepSpeed's ZeRO-2 keeps a share of every moment on each process, flattened, in main memory. A checkpoint has them whole
and by the parameters' names, so that a run may go on with other processes, or without DeepSpeed at all.
"""

from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def set_up_zero(accelerator: Accelerator, batch: int, accumulation: int, clip: float) -> None:
    """Tell DeepSpeed, where it is used, what it would otherwise read from a data loader or a file of its own."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None:
        return
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": batch * accumulation * accelerator.num_processes,
        "gradient_clipping": clip,
        # torch's own AdamW computes on the CPU too, and needs no compiler there
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


class ShardedOptimizer:
    """Looks to a checkpoint like an optimizer that has all moments.

    Args:
        zero: DeepSpeed's optimizer.
        parameters: what is trained, in the order of every process.

    Attributes:
        state: by parameter, its moments; empty before `gather` and after `scatter`.
        param_groups: the optimizer's.
    """

    def __init__(self, zero: Any, parameters: list[nn.Parameter]) -> None:
        self._zero, self._parameters = zero, parameters
        self.param_groups: list[dict[str, Any]] = zero.param_groups
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def gather(self) -> "ShardedOptimizer":
        """Bring all moments together, on every process; all of them have to call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self.state = {
            parameter: {moment: safe_get_full_optimizer_state(parameter, moment).cpu() for moment in MOMENTS}
            for parameter in self._parameters
        }
        return self

    def scatter(self, step: int) -> None:
        """Take each process's share of `state` and of the parameters as they are now, at step number `step`."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        inner = self._zero.optimizer
        for group in inner.param_groups:
            # torch's optimizer makes its state in its first step, which a run that goes on had long ago
            for share in group["params"]:
                inner.state[share] = {"step": torch.tensor(float(step))} | {
                    moment: torch.zeros_like(share) for moment in MOMENTS
                }
        self._zero._lazy_init_hp_params_optimizer_state()
        for parameter in self._parameters:
            safe_set_full_fp32_param(parameter, parameter.detach().float())
            for moment in MOMENTS:
                safe_set_full_optimizer_state(parameter, self.state[parameter][moment], moment)
        self.state = {}
