"""Reading checkpoint files into a model: names and shapes are compared first, then one tensor moves at a time."""

import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from wanavatar_lab.errors import WeightsError, check_cancelled

Shapes = dict[str, tuple[int, ...]]

WEIGHTS_STEM = "diffusion_pytorch_model"  # what files of weights begin with, at Wan-AI and in diffusers

_ZIP_MAGIC = b"PK\x03\x04"
# the number that torch.save wrote first before torch 1.6, as pickle has it behind its own first bytes
_LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
_HEAD = 32  # bytes, in which either is found


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


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, on the CPU.

    Raises:
        WeightsError: the file is damaged, cut short, of another format, or not there.
    """
    with _opened(file) as shard:
        # safe_open gives an object with keys() that cannot be iterated itself
        return {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, of which only the header is read at first."""
    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error


def read_state_dict(file: Path, containers: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors of a file that `torch.save` wrote, such as a `.pth`.

    Nothing in the file is executed: of its pickle only tensors and plain containers are accepted (`weights_only`), and
    TorchScript archives, whose modules run code as they are loaded, are refused.

    Args:
        file: in torch's zip format it is mapped from the disk, so that a tensor's bytes are read when it is used; in
            the format before torch 1.6 it is read whole.
        containers: keys under which the tensors may be nested. The first one that the file has counts, and what lies
            beside it is ignored; then a dict that is the file's only entry counts, whatever its key. Without any, the
            file has to be one flat dict of tensors.

    Raises:
        WeightsError: the file is not there, is damaged, holds anything but tensors, or is a TorchScript archive.
    """
    if not file.is_file():
        raise WeightsError(f"{file} is not there. Download the checkpoint again, or point to the folder that has it.")
    with open(file, "rb") as stream:
        head = stream.read(_HEAD)
    mapped = head.startswith(_ZIP_MAGIC)
    if not mapped and _LEGACY_MAGIC not in head:
        raise WeightsError(
            f"{file} is not a file of tensors as torch.save writes it, and was not opened. Download it again."
        )
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} was refused: it is damaged, or holds more than tensors, which could run code when loaded. "
            "Download it again from a source that you trust."
        ) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to ask for
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, RuntimeError) and "TorchScript" in reason:
            raise WeightsError(
                f"{file} was refused: it is a TorchScript archive, which can run code when loaded. "
                "Give a file of tensors as torch.save writes a state dict, or a safetensors file."
            ) from error
        raise WeightsError(f"{file} is damaged ({reason}). Download it again.") from error
    if isinstance(tensors, dict) and (keys := tuple(containers)):
        tensors = next((tensors[key] for key in keys if isinstance(tensors.get(key), dict)), tensors)
        only = next(iter(tensors.values())) if len(tensors) == 1 else None
        tensors = only if isinstance(only, dict) else tensors
    if not isinstance(tensors, dict):
        raise WeightsError(f"{file} holds a {type(tensors).__name__} instead of named tensors. Download it again.")
    strange = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if strange:
        raise WeightsError(f"{file} has entries that are no tensors: {', '.join(strange[:5])}. Download it again.")
    return {str(name): tensor for name, tensor in tensors.items()}


def read_json(file: Path) -> dict[str, Any]:
    """The fields of a JSON file that comes with a checkpoint.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is damaged ({error}). Download it again.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{file} holds a {type(value).__name__} instead of named fields. Download it again.")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a network's checkpoint folder.

    Raises:
        WeightsError: it is missing or damaged.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise WeightsError(f"{folder} has no config.json. Point to the folder that holds the transformer.")
    return read_json(file)


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a network's checkpoint folder, in order.

    Raises:
        WeightsError: the folder or a file that its index names is missing, or the index is damaged.
    """
    index = folder / f"{WEIGHTS_STEM}.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise WeightsError(f"{index} has no weight_map of file names. Download it again.")
        files = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        files = sorted(folder.glob(f"{WEIGHTS_STEM}*.safetensors"))
    gone = [file.name for file in files if not file.is_file()]
    if not files or gone:
        what = ", ".join(gone) if gone else f"{WEIGHTS_STEM}*.safetensors"
        raise WeightsError(f"{folder} lacks {what}. Download the checkpoint again, or point to the folder that has it.")
    return files


def read_headers(folder: Path, name_of: Callable[[str], str]) -> tuple[dict[str, tuple[Path, str]], Shapes]:
    """Read where a sharded checkpoint stores each tensor, and its shape; only headers are read.

    Args:
        folder: has the safetensors files.
        name_of: gives the model's name for a stored one.

    Returns:
        the model's name → the file and the name in it, and the model's name → the shape.

    Raises:
        WeightsError: a file is missing or damaged, or two stored names are of the same tensor.
    """
    files: dict[str, Path] = {}
    shapes: Shapes = {}
    for file in shard_files(folder):
        with _opened(file) as shard:
            found = {name: tuple(shard.get_slice(name).get_shape()) for name in shard.keys()}  # noqa: SIM118
        files |= dict.fromkeys(found, file)
        shapes |= found
    stored = stored_names(files, name_of, str(folder))
    places = {ours: (files[theirs], theirs) for ours, theirs in stored.items()}
    return places, {ours: shapes[theirs] for ours, theirs in stored.items()}


def stored_names(names: Iterable[str], name_of: Callable[[str], str], where: str) -> dict[str, str]:
    """The model's name → the stored name, for each of `names`.

    Args:
        names: the stored names.
        name_of: gives the model's name for a stored one.
        where: what to call the checkpoint in an error.

    Raises:
        WeightsError: two stored names are of the same tensor.
    """
    stored: dict[str, str] = {}
    for theirs in names:
        ours = name_of(theirs)
        if ours in stored:
            raise WeightsError(f"{where} has {theirs}, which is the same tensor as {stored[ours]}.")
        stored[ours] = theirs
    return stored


def read_shards(places: Mapping[str, tuple[Path, str]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Read the tensors of a sharded checkpoint one by one, as (the model's name, tensor).

    A shard is closed before the next one is opened, so that at most one of them is mapped into memory.

    Args:
        places: the model's name of a tensor → its file, and its name in that file.

    Raises:
        WeightsError: a file is damaged.
    """
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for ours, (file, theirs) in places.items():
        by_file.setdefault(file, []).append((ours, theirs))
    for file, names in by_file.items():
        with _opened(file) as shard:
            for ours, theirs in names:
                yield ours, shard.get_tensor(theirs)


def model_shapes(model: torch.nn.Module) -> Shapes:
    """Names and shapes of all weights of a model, those shared by several modules once."""
    return tensor_shapes(model.named_parameters())


def tensor_shapes(tensors: Iterable[tuple[str, torch.Tensor]]) -> Shapes:
    """Names and shapes of (name, tensor) pairs."""
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def fill(
    model: torch.nn.Module,
    tensors: Iterable[tuple[str, torch.Tensor]],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    in_float32: Iterable[str] = (),
) -> None:
    """Give a model on the meta device its weights, frozen, one tensor at a time.

    A weight that several modules share has to be tied again afterwards.

    Args:
        model: built on the meta device.
        tensors: (the model's name, tensor) for each weight; see `compare_names` for the check before.
        dtype: dtype of the weights.
        device: where the weights go.
        in_float32: parts of names, such as "norm2", whose weights are in float32 whatever `dtype` is.
    """
    kept = set(in_float32)
    for name, tensor in tensors:
        check_cancelled()
        wanted = torch.float32 if kept & set(name.split(".")) else dtype
        owner, _, leaf = name.rpartition(".")
        # a copy, since the tensor is a view into a mapped file
        weight = torch.nn.Parameter(tensor.to(device=device, dtype=wanted, copy=True), requires_grad=False)
        setattr(model.get_submodule(owner), leaf, weight)
