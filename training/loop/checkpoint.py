"""Checkpoints of a run: the trained weights in files that others read, and the state from which the run resumes.

    <run>/checkpoint-50/lora_weights.safetensors    see `training.model.adapter`
                        audio_modules.safetensors   see `training.model.full_finetune`; if parts are trained in full
                        state.safetensors           the optimizer's state, by the network's parameter names, and the
                                                    values that the other files do not hold bit by bit
                        state.json                  the step, and the settings that a resumed run has to share

The first two hold the averaged weights if the run has an EMA. A checkpoint is written into a temporary folder that is
then renamed, and older ones are removed after that: whenever a process is killed, a complete checkpoint is left.
None with a value that is not finite is written or read: every step from it would be lost.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file
from torch import Tensor, nn

from training.config.training_config import OLD_NAMES
from training.data.whole_folder import remove_folder, remove_leftovers, whole_folder
from training.loop.run_folder import AUDIO_MODULES, WEIGHTS, checkpoints, noted_weight
from training.model.adapter import adapter_tensors, load_adapter_tensors
from training.model.deepspeed_state import ShardedOptimizer
from training.model.ema import averaged
from training.model.full_finetune import part_tensors
from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.wan.checkpoint_files import read_safetensors

STATE, FACTS = "state.safetensors", "state.json"
_VALUE, _AVERAGE, _STEP = "value", "average", "step"
_SKIPPED = "skipped_steps"
_REMOVE = "Remove its folder to resume from the checkpoint before it."


def save_checkpoint(
    run: Path,
    step: int,
    network: WanS2VTransformer3DModel,
    optimizer: torch.optim.Optimizer | ShardedOptimizer,
    facts: Mapping[str, Any],
    limit: int,
    origins: Mapping[str, Tensor] | None = None,
    ema: EMAModel | None = None,
    skipped: int = 0,
    best: Path | None = None,
) -> Path:
    """Write the checkpoint of a completed step, then remove older ones as `remove_old` does.

    Args:
        facts: what has to be the same when the run resumes.
        limit, best: see `remove_old`.
        origins: weights that are trained in full, as they were before, by name.
        ema: of `trained_parameters`, if the run has one.
        skipped: steps of the run in which the optimizer made none.

    Raises:
        DiskFull: there is no space; earlier checkpoints stay.
        LabError: a value is not finite; nothing is written.
    """
    run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run)
    folder, origins, parameters = run / f"checkpoint-{step}", origins or {}, trained_parameters(network)
    state: dict[str, Tensor] = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        # none before the optimizer's first step, which may have been skipped
        moments = {key: value for key, value in optimizer.state.get(parameter, {}).items() if key != _STEP}
        state |= {f"{name}.{moment}": value for moment, value in moments.items()}
        # of a part trained in full its file has the difference only, whose rounding a resumed run would inherit
        if ema or name in origins:
            state[f"{name}.{_VALUE}"] = parameter
        if ema:
            state[f"{name}.{_AVERAGE}"] = ema.shadow_params[number]
    if broken := not_finite({**parameters, **state}):
        raise LabError(f"{in_words(broken, folder)} It is not saved. {_go_back(run)}")
    with whole_folder(folder) as draft:
        with averaged(ema, list(parameters.values())):
            tensors, metadata = adapter_tensors(network)
            metadata["ss_steps"] = str(step)
            save_file(tensors, draft / WEIGHTS, metadata | noted_weight(WEIGHTS))
            if origins:
                parts = part_tensors(network, origins)
                save_file(parts, draft / AUDIO_MODULES, metadata | noted_weight(AUDIO_MODULES))
        # copied, since safetensors refuses tensors that share memory, as DeepSpeed's do
        copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
        save_file(copies, draft / STATE)
        (draft / FACTS).write_text(json.dumps({"step": step, _SKIPPED: skipped, **facts}, indent=1) + "\n")
    remove_old(run, limit, best)
    return folder


def remove_old(run: Path, limit: int, best: Path | None = None) -> None:
    """Remove all checkpoints but the newest `limit` and `best`, which may be any of them."""
    for old in checkpoints(run)[:-limit]:
        if old != best:
            remove_folder(old)


def load_checkpoint(
    folder: Path,
    network: WanS2VTransformer3DModel,
    optimizer: torch.optim.Optimizer | ShardedOptimizer,
    facts: Mapping[str, Any],
    ema: EMAModel | None = None,
) -> int:
    """Restore weights, moments and the EMA; returns the number of completed steps.

    Raises:
        LabError: the checkpoint's run had other `facts`, a file of it is missing or damaged, or a value in it is not
            finite.
    """
    missing = [name for name in (WEIGHTS, STATE, FACTS) if not (folder / name).is_file()]
    if missing:
        raise LabError(f"{folder} lacks {', '.join(missing)}. {_REMOVE}")
    saved = {OLD_NAMES.get(name, name): value for name, value in _facts_of(folder).items()}
    # a fact that an older version did not save cannot be compared
    changed = [
        f"{name} {saved[name]!r} and now {value!r}"
        for name, value in facts.items()
        if name in saved and saved[name] != value
    ]
    if changed:
        raise LabError(
            f"{folder} was created with different settings: {'; '.join(changed)}. Use its settings to resume, or give "
            "the run another folder."
        )
    weights, state = _tensors_of(folder / WEIGHTS), _tensors_of(folder / STATE)
    for name, tensors in ((WEIGHTS, weights), (STATE, state)):
        if broken := not_finite(tensors):
            raise LabError(f"{in_words(broken, folder / name)} {_go_back(folder.parent)}")
    load_adapter_tensors(network, weights)
    step, parameters = int(saved["step"]), trained_parameters(network)
    made = step - skipped_steps(folder)
    fused = optimizer.param_groups[0].get("fused")
    counts_in_tensors = isinstance(optimizer, torch.optim.AdamW | ShardedOptimizer)
    by_name: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, value in state.items():
        name, _, kind = key.rpartition(".")
        by_name[name][kind] = value
    for name, parameter in parameters.items():
        if _VALUE in by_name[name]:
            parameter.data.copy_(by_name[name][_VALUE])
        kinds = by_name[name].keys() - {_VALUE, _AVERAGE}
        if not kinds:
            continue
        # fused AdamW counts its steps on the device, that of bitsandbytes in a plain number
        counted = torch.tensor(float(made), device=parameter.device if fused else "cpu")
        moments: dict[str, Any] = {kind: by_name[name][kind].to(parameter.device) for kind in kinds}
        moments[_STEP] = counted if counts_in_tensors else made
        optimizer.state[parameter] = moments
    if ema:
        ema.optimization_step = made
        ema.shadow_params = [state[f"{name}.{_AVERAGE}"].to(value.device) for name, value in parameters.items()]
    return step


def skipped_steps(folder: Path) -> int:
    """How many of a checkpoint's steps were skipped, since their gradient was not finite."""
    return int(_facts_of(folder).get(_SKIPPED, 0))


def _facts_of(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / FACTS).read_text()))
    except (ValueError, TypeError) as error:
        raise LabError(f"{folder / FACTS} is damaged ({error}). {_REMOVE}") from error


def _tensors_of(file: Path) -> dict[str, Tensor]:
    try:
        return read_safetensors(file)
    except WeightsError as error:
        raise WeightsError(f"{str(error).removesuffix(' Download it again.')} {_REMOVE}") from error


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors in which a value is NaN or infinite."""
    return [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]


def in_words(broken: Sequence[str], file: Path) -> str:
    """What `not_finite` found in a file."""
    return f"{file} has NaN or infinite values in {len(broken)} tensors, the first is {broken[0]}."


def _go_back(run: Path) -> str:
    """How to resume from the newest checkpoint whose values are all finite."""
    later: list[str] = []
    for folder in reversed(checkpoints(run)):
        if _is_sound(folder):
            how = f"Remove {' and '.join(later)}" if later else "Start it again"
            return f"{how} to resume from {folder.name}, which is sound; a lower learning_rate may help."
        later.append(folder.name)
    return "There is no sound checkpoint to go back to: train in another folder, with a lower learning_rate."


def _is_sound(folder: Path) -> bool:
    try:
        return not any(not_finite(_tensors_of(folder / name)) for name in (WEIGHTS, STATE))
    except LabError:
        return False


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The trained parameters, by their names in the network."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def same_bits(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())
