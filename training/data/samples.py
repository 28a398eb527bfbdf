"""Encoded samples: latents, audio features, text embeddings and masks, precomputed once and read from disk.

<folder>/samples.json         one entry per sample, see `training.data.sample_list`
         no_text.safetensors  the embeddings of the empty and of the negative prompt
         <name>.safetensors   the tensors of one sample, see `training.loop.step`, without the batch dimension
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from training.data.sample_list import LIST, Entry, entries_of
from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.files import whole_file, write_json
from wanavatar_lab.wan.checkpoint_files import read_safetensors
from wanavatar_lab.weights.safetensors_header import read_header

NO_TEXT = "no_text.safetensors"
NEEDED = ("target", "reference", "audio", "text", "face", "lip", "valid")  # of every sample


class Samples:
    """The samples of one folder: held-out ones, or the others.

    Attributes:
        no_text: embedding [1, L, d] of the empty prompt.
        negative: that of the negative prompt with which a request samples; None in folders that have none.

    Raises:
        LabError: there are none, or the list cannot be read; or a file is missing, damaged or of an earlier release,
            which is said now and not when its turn comes after hours.
    """

    def __init__(self, folder: Path, held_out: bool = False) -> None:
        self.folder = folder
        self.entries = entries_of(folder, held_out)
        with _encoded_again(folder):
            texts = read_safetensors(folder / NO_TEXT)
            shapes = {entry.name: read_header(self._file(entry)).shapes for entry in self.entries}
        for name, found in shapes.items():
            if lacks := [each for each in NEEDED if each not in found]:
                raise LabError(
                    f"The sample {name} in {folder} has no {', '.join(lacks)}: another release encoded it. Encode the "
                    "data again."
                )
        self.no_text = texts["text"][None]
        # folders of earlier releases have none
        self.negative = texts["negative"][None] if "negative" in texts else None

    @property
    def buckets(self) -> list[str]:
        """Shapes of each sample's tensors, as text."""
        return [entry.bucket for entry in self.entries]

    @property
    def hash(self) -> str:
        """A hash of the samples' names, which contain hashes of all that they were encoded from."""
        return hashlib.sha256("\n".join(entry.name for entry in self.entries).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        return len(self.entries)

    def batch(self, rows: Sequence[int], device: torch.device | str) -> dict[str, Tensor]:
        """Tensors of some samples of one bucket on the device, [B, …] each, floating-point ones in float32.

        Also "no_text" [1, L, d], the empty prompt's embedding. Texts are padded with zeros to one length, as the
        network pads them itself.
        """
        with _encoded_again(self.folder):
            files = [read_safetensors(self._file(self.entries[row])) for row in rows]
        longest = max(self.no_text.shape[1], *(len(file["text"]) for file in files))
        for file in files:
            file["text"] = _padded(file["text"], longest)
        joined = {name: torch.stack([file[name] for file in files]) for name in files[0]}
        joined["no_text"] = _padded(self.no_text[0], longest)[None]
        return {
            name: tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in joined.items()
        }

    def check_network(self, config: Mapping[str, Any], profile: str) -> None:
        """Check that the samples were encoded by the models of a network.

        Args:
            config: of the network.
            profile: whose network it is.

        Raises:
            LabError: they have tensors of other sizes.
        """
        wanted = {
            "target": [config["out_channels"]],
            "audio": [config["num_audio_layers"], config["audio_dim"]],
            "text": [config["text_dim"]],
        }
        for bucket in dict.fromkeys(self.buckets):
            shapes = json.loads(bucket)
            found = {"target": shapes["target"][:1], "audio": shapes["audio"][:2], "text": [self.no_text.shape[-1]]}
            if differ := [
                f"{name} is {found[name]} and not {wanted[name]}" for name in wanted if found[name] != wanted[name]
            ]:
                raise LabError(
                    f"The samples in {self.folder} are not for the network of profile {profile}: {', '.join(differ)}. "
                    f"Encode them with --profile {profile}, or train the profile that they were encoded with."
                )

    def _file(self, entry: Entry) -> Path:
        return self.folder / f"{entry.name}.safetensors"


@contextmanager
def _encoded_again(folder: Path) -> Iterator[None]:
    """Within it, a file of the folder that cannot be read is one to encode again, and none to download."""
    try:
        yield
    except WeightsError as error:
        why = str(error).removesuffix(" Download it again.")
        raise WeightsError(f"{why} The samples in {folder} are not complete: encode the data again.") from error


def write_sample(folder: Path, name: str, tensors: Mapping[str, Tensor] | None, clip: str, held_out: bool) -> Entry:
    """Write one sample's file, completely or not at all; `write_list` adds it to the list.

    Args:
        tensors: without the batch dimension; None keeps the existing file.
    """
    file = folder / f"{name}.safetensors"
    if tensors is not None:
        with whole_file(file) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
    shapes = read_header(file).shapes
    # texts are padded to one length in a batch
    bucket = {key: list(shapes[key]) for key in sorted(shapes) if key != "text"}
    return Entry(name, clip, held_out, json.dumps(bucket))


def write_list(folder: Path, entries: Sequence[Entry], no_text: Tensor, negative: Tensor | None = None) -> None:
    """Write the list of all samples, and the embeddings [L, d] of the empty prompt and of the usual negative one."""
    texts = {"text": no_text} if negative is None else {"text": no_text, "negative": negative}
    with whole_file(folder / NO_TEXT) as temporary:
        save_file({name: text.contiguous() for name, text in texts.items()}, temporary)
    write_json(folder / LIST, [asdict(entry) for entry in entries])


def _padded(text: Tensor, length: int) -> Tensor:
    return F.pad(text, (0, 0, 0, length - len(text)))
