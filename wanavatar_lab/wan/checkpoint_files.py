"""Tensors on disk and their way into a model: names and shapes are compared first, then one tensor moves at a time."""

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from wanavatar_lab.errors import WeightsError

Shapes = dict[str, tuple[int, ...]]

_ZIP_MAGIC = b"PK\x03\x04"


def compare_names(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Check that the tensors found are exactly those expected, with their shapes.

    Raises:
        WeightsError: names the first tensors that are missing, left over or of another shape.
    """
    missing = sorted(expected.keys() - found.keys())
    left_over = sorted(found.keys() - expected.keys())
    reshaped = [
        f"{name} is {list(found[name])}, need {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if tuple(found[name]) != tuple(expected[name])
    ]
    problems = name_problems({"missing": missing, "left over": left_over, "of another shape": reshaped})
    if problems:
        raise WeightsError(f"{where} is not the checkpoint this model needs. {problems}.")


def name_problems(kinds: Mapping[str, list[str]]) -> str:
    """Say how many tensors have which problem and name the first five of each kind; empty when there is none."""
    said = []
    for kind, names in kinds.items():
        if names:
            noun = "tensor" if len(names) == 1 else "tensors"
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            said.append(f"{len(names)} {noun} {kind}: {', '.join(names[:5])}{more}")
    return "; ".join(said)


def safetensors_shapes(file: Path) -> Shapes:
    """Names and shapes in a safetensors file; reads its header only.

    Raises:
        WeightsError: the file is damaged, cut short, or not there.
    """
    try:
        with safe_open(file, framework="pt") as shard:
            # a safetensors file is no mapping
            return {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth` file, mapped from the disk: a tensor's bytes are read when it is used.

    Of the pickle inside, only tensors and plain containers are let through (`weights_only`); nothing in it is called.

    Raises:
        WeightsError: the file is not there, is damaged, asks for anything but tensors, or is not one flat dict of them.
    """
    if not file.is_file():
        raise WeightsError(f"{file} is not there. Download the checkpoint again, or point to the folder that has it.")
    with open(file, "rb") as stream:
        if stream.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            raise WeightsError(
                f"{file} is not a file of tensors as torch.save writes it, and was not opened. Download it again."
            )
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} was refused: it is damaged, or holds more than tensors, which could run code when loaded. "
            "Download it again from a source that you trust."
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"{file} is damaged ({reason}). Download it again.") from error
    if not isinstance(tensors, dict):
        raise WeightsError(f"{file} holds a {type(tensors).__name__} instead of named tensors. Download it again.")
    strange = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(f"{file} has entries that are no tensors: {', '.join(strange[:5])}. Download it again.")
    return {str(name): tensor for name, tensor in tensors.items()}


def model_shapes(model: torch.nn.Module) -> Shapes:
    """Names and shapes of all weights of a model, those shared by several modules once."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def place(model: torch.nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Put `tensor` where the model has its weight `name`, frozen; what shares that weight has to be tied anew."""
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(tensor, requires_grad=False))


def fill(
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    name_of: Callable[[str], str],
    dtype_of: Callable[[str], torch.dtype],
    device: torch.device | str,
    where: str,
) -> None:
    """Give a model on the meta device its weights, one tensor at a time.

    Args:
        model: built on the meta device.
        tensors: the stored tensors, by their stored names.
        name_of: the model's name for a stored name.
        dtype_of: the dtype for a weight, by the model's name.
        device: where the weights go.
        where: what to call the file in an error.

    Raises:
        WeightsError: a tensor is missing, left over, there twice, or of another shape.
    """
    stored: dict[str, str] = {}
    for theirs in tensors:
        ours = name_of(theirs)
        if ours in stored:
            raise WeightsError(f"{where} has {theirs}, which is the same tensor as {stored[ours]}.")
        stored[ours] = theirs
    compare_names({ours: tuple(tensors[theirs].shape) for ours, theirs in stored.items()}, model_shapes(model), where)
    for ours, theirs in stored.items():
        place(model, ours, tensors[theirs].to(device=device, dtype=dtype_of(ours), copy=True))
