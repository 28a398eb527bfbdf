"""DeepSpeed ZeRO-2: its settings, and its sharded optimizer state as a checkpoint has it.

ZeRO-2 keeps a share of the moments on each process, flattened, in CPU RAM. A checkpoint has them whole and by
parameter name, so that a run may resume with another number of processes, or without DeepSpeed.
"""

from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW, by torch's names


def configure_deepspeed(accelerator: Accelerator, batch: int, accumulation: int, max_grad_norm: float) -> None:
    """Set, if DeepSpeed is used, what it would otherwise read from a data loader or from a file of its own."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is None:
        return
    plugin.deepspeed_config |= {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": batch * accumulation * accelerator.num_processes,
        "gradient_clipping": max_grad_norm,
        # torch's own AdamW computes on the CPU too, and needs no compiler on the machine
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
    }


class ShardedOptimizer:
    """DeepSpeed's optimizer with the interface that checkpoints use: moments by parameter.

    Args:
        zero: DeepSpeed's optimizer.
        parameters: the trained ones, in the same order on every process.

    Attributes:
        state: moments by parameter; filled by `gather` or by a loaded checkpoint, emptied by `scatter`.
        param_groups: the optimizer's.
    """

    def __init__(self, zero: Any, parameters: list[nn.Parameter]) -> None:
        self._zero, self._parameters = zero, parameters
        self.param_groups: list[dict[str, Any]] = zero.param_groups
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def gather(self) -> None:
        """Collect whole moments on every process; all of them have to call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self.state = {
            parameter: {moment: safe_get_full_optimizer_state(parameter, moment).cpu() for moment in MOMENTS}
            for parameter in self._parameters
        }

    def scatter(self, step: int) -> None:
        """Give each process its share of `state` and of the parameters' values, after `step` completed steps."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        inner = self._zero.optimizer
        for group in inner.param_groups:
            # torch's optimizer creates its state in its first step, which a resumed run has behind it
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
