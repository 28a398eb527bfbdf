"""The LoRA of a run put into the list of LoRAs, under a name by which a request asks for it.

weights/loras/mov/character/<name>.safetensors         the newest checkpoint's, byte by byte: rank and alpha in it
                            <name>_audio.safetensors   where parts were trained in full beside it
                            <name>.json, <name>.png    what the list says of it, and shows
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.loop.run_folder import AUDIO_MODULES, WEIGHTS, checkpoints
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.files import whole_file, write_json
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.lora.find import noise_of
from wanavatar_lab.requests.request import shown
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.language import language, read_words

PLACE = Path("loras") / "mov" / "character"
AUDIO = "_audio"
_NAME = re.compile(r"\w[\w-]*")
_FROM, _FILES = "trained_by", "files"  # in the notes beside a LoRA: the run, and what of it lies there

WORDS = read_words(__file__, "offer")


@dataclass(frozen=True)
class Offered:
    """A LoRA of the list.

    Attributes:
        names: by which a request asks for it and what belongs to it.
        file: its own.
        rank, alpha: of its matrices.
        step: of the checkpoint.
    """

    names: tuple[str, ...]
    file: Path
    rank: int
    alpha: float
    step: int

    def scale(self, strength: float) -> float:
        """How much the product of its matrices counts: strength × alpha / rank."""
        return strength * self.alpha / self.rank

    def told(self, strength: float) -> str:
        """The scale in words."""
        return language.of(WORDS["scale"]).format(
            strength=f"{strength:g}",
            alpha=f"{self.alpha:g}",
            rank=self.rank,
            scale=f"{self.scale(strength):g}",
            trained=f"{self.scale(1.0):g}",
        )


def offer(
    run: Path, name: str, preview: Path | None = None, weights_dir: Path | None = None, strength: float = 0.5
) -> Offered:
    """Put the newest checkpoint's LoRA into the list; the same run's of before is replaced.

    Args:
        run: of the training.
        name: letters, digits, - and _.
        preview: a picture of the person.
        weights_dir: that of the settings if None.
        strength: with which the list says that it is used, and with which panels begin.

    Raises:
        RequestError: the name is not allowed, or something else has it.
        LabError: the run has no checkpoint.
        DiskFull: there is no room.
    """
    weights = Path(weights_dir or read_settings().weights_dir).absolute()
    if not _NAME.fullmatch(name) or noise_of(name):
        allowed = "letters, digits, - and _, without high_noise or low_noise"
        raise RequestError([("lora_name", f"{shown(name)} is not allowed; give {allowed}")])
    saved = checkpoints(run)[-1:]
    if not saved:
        raise LabError(f"The training in {run} has no checkpoint yet. Train with notebook 11 first.")
    folder, step = weights / PLACE, int(saved[0].name.rpartition("-")[2])
    file, notes = folder / f"{name}.safetensors", folder / f"{name}.json"
    mine = str(run.absolute())
    wanted = {file: saved[0] / WEIGHTS}
    if (saved[0] / AUDIO_MODULES).is_file():
        wanted[folder / f"{name}{AUDIO}.safetensors"] = saved[0] / AUDIO_MODULES
    if preview is not None and preview.is_file():
        wanted[folder / f"{name}.png"] = preview
    before = _files(notes) if _maker(notes) == mine else set()
    foreign = [path for path in (*wanted, notes) if path.exists() and path.name not in before]
    if foreign:
        why = f"{foreign[0]} is of something else; give another name"
        raise RequestError([("lora_name", f"{name!r} is not allowed: {why}")])
    folder.mkdir(parents=True, exist_ok=True)
    # the notes first: who is killed in between may do it again
    description = f"How one person moves their lips, from {step} steps of training. Usual strength: {strength:g}."
    files = {path.name for path in (*wanted, notes)}
    noted = {"description": description, "usual_weight": strength, _FROM: mine, "step": step}
    write_json(notes, noted | {_FILES: sorted(files | before)})
    for target, source in wanted.items():
        with whole_file(target) as draft:
            shutil.copyfile(source, draft)
    for gone in before - files:
        # of an earlier training in the same folder, which had parts that this one has not
        (folder / gone).unlink(missing_ok=True)
    # what is gone may become somebody else's name
    write_json(notes, noted | {_FILES: sorted(files)})
    names = [path.stem for path in wanted if path.suffix == file.suffix]
    return _listed(weights, file, names, step)


def offered_before(run: Path, name: str, weights_dir: Path | None = None) -> Offered | None:
    """The LoRA of a run that is in the list already; None where it is not, or is that of another one."""
    weights = Path(weights_dir or read_settings().weights_dir).absolute()
    file, notes = (weights / PLACE / f"{name}{ending}" for ending in (".safetensors", ".json"))
    if not _NAME.fullmatch(name) or not file.is_file() or _maker(notes) != str(run.absolute()):
        return None
    audio = file.with_name(f"{name}{AUDIO}.safetensors")
    names = [name, audio.stem] if audio.name in _files(notes) and audio.is_file() else [name]
    step = int(json.loads(notes.read_text(encoding="utf-8"))["step"])
    try:
        return _listed(weights, file, names, step)
    except LabError:  # it is damaged; offered again it is whole
        return None


def _listed(weights: Path, file: Path, names: list[str], step: int) -> Offered:
    """The LoRA as the list has it, so that what is said of it is what will be applied."""
    adapters = {path: adapter for adapter in find_adapters(weights) for path in adapter.files.values()}
    (found,) = describe([adapters[file]], weights)
    if found.problem or found.rank is None or found.alpha is None:
        raise LabError(f"{file} cannot be used: {found.problem or 'it has no rank or no alpha'}")
    by_stem = {path.stem: adapter.name for path, adapter in adapters.items() if path.parent == file.parent}
    return Offered(tuple(by_stem[name] for name in names), file, found.rank[1], found.alpha[1], step)


def _maker(notes: Path) -> str | None:
    """The run that a LoRA's notes say it is of."""
    return _noted(notes).get(_FROM)


def _files(notes: Path) -> set[str]:
    """Names of the files that a LoRA's notes say are of it; the first notes did not say it."""
    usual = [notes.with_suffix(ending).name for ending in (".json", ".safetensors", ".png")]
    return {Path(name).name for name in _noted(notes).get(_FILES, usual)}


def _noted(notes: Path) -> dict[str, Any]:
    if not notes.is_file():
        return {}
    try:
        noted = json.loads(notes.read_text(encoding="utf-8"))
    except ValueError:  # somebody else's file
        return {}
    return noted if isinstance(noted, dict) else {}
