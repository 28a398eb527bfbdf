"""Add the LoRA of a run to the LoRA list, under the name by which requests use it.

weights/loras/mov/character/<name>.safetensors         copy of a checkpoint's LoRA, with rank and alpha
                            <name>_audio.safetensors   modules trained in full beside it, if there are any
                            <name>.json, <name>.png    description and preview in the list
"""

import json
import re
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from training.loop.run_folder import AUDIO_MODULES, USUAL_WEIGHTS, WEIGHTS, best_of, checkpoints, step_of
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.files import report_write_errors, whole_file, write_json
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.lora.find import noise_of
from wanavatar_lab.requests.display import table_html
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.language import language, read_words

PLACE = Path("loras") / "mov" / "character"
AUDIO = "_audio"
NEWEST, BEST = "newest", "best"  # checkpoints, beside the names of their folders
_NAME = re.compile(r"\w[\w-]*")
_RUN, _FILES = "trained_by", "files"  # in the notes: the run's folder, and the files that belong to its LoRA

WORDS = read_words(__file__, "publish")


@dataclass(frozen=True)
class Published:
    """A LoRA in the list.

    Attributes:
        names: for a request: the LoRA's own, and that of the modules trained in full.
        file: the LoRA's.
        rank, alpha: of its matrices.
        step: of the checkpoint.
        best: the step of another checkpoint, which is the best, and the number by which it is; None if there is none.
    """

    names: tuple[str, ...]
    file: Path
    rank: int
    alpha: float
    step: int
    best: tuple[int, str] | None = None

    def scale(self, strength: float) -> float:
        """The factor on the product of its matrices: strength × alpha / rank."""
        return strength * self.alpha / self.rank

    def choices(self, strength: float = USUAL_WEIGHTS[WEIGHTS]) -> list[dict[str, Any]]:
        """The `loras` of a request: the LoRA at this strength, and the modules trained in full at theirs, 1."""
        lora, *parts = self.names
        strengths = {lora: strength, **dict.fromkeys(parts, USUAL_WEIGHTS[AUDIO_MODULES])}
        return [{"name": name, "high_weight": each, "low_weight": each} for name, each in strengths.items()]

    def _repr_html_(self) -> str:
        facts = {
            "in the list as": ", ".join(self.names),
            "file": str(self.file),
            "trained for": f"{self.step} steps",
            **({"best by " + self.best[1]: f"checkpoint-{self.best[0]}, which is not this one"} if self.best else {}),
            "rank, alpha": f"{self.rank}, {self.alpha:g}",
            "scale at strength 1": f"alpha / rank = {self.scale(1.0):g}",
        }
        rows = [("<tr>", [escape(name), f"<b>{escape(value)}</b>"]) for name, value in facts.items()]
        return table_html(["LoRA", ""], rows)

    def said(self) -> str:
        """Which checkpoint it is, and whether another one is the best, in the current language."""
        said = language.of(WORDS["taken"]).format(step=self.step)
        if self.best:
            said += " " + language.of(WORDS["best"]).format(step=self.best[0], metric=self.best[1])
        return said

    def scale_in_words(self, strength: float) -> str:
        """How that factor comes about, in the current language."""
        return language.of(WORDS["scale"]).format(
            strength=f"{strength:g}",
            alpha=f"{self.alpha:g}",
            rank=self.rank,
            scale=f"{self.scale(strength):g}",
            trained=f"{self.scale(1.0):g}",
        )


def publish(
    run: Path,
    name: str,
    preview: Path | None = None,
    strength: float = USUAL_WEIGHTS[WEIGHTS],
    checkpoint: str = NEWEST,
) -> Published:
    """Copy a checkpoint's LoRA into the list, replacing an earlier one of the same run.

    Args:
        run: folder of the training.
        name: letters, digits, - and _.
        preview: a picture of the person.
        strength: the usual weight, with which panels begin.
        checkpoint: newest, best, or the name of its folder; the best is that by the run's `metric_for_best_model`.

    Raises:
        RequestError: the name is not allowed, or taken by another LoRA; or there is no such checkpoint.
        LabError: the run has no checkpoint, or the weights folder cannot be written.
        DiskFull: there is no room.
    """
    if not _NAME.fullmatch(name) or noise_of(name):
        allowed = "letters, digits, - and _, without high_noise or low_noise"
        raise RequestError([("lora_name", must_be(allowed, name))])
    saved = _checkpoint(run, checkpoint)
    folder, step = _folder(), step_of(saved)
    file, notes = folder / f"{name}.safetensors", folder / f"{name}.json"
    wanted = {file: saved / WEIGHTS}
    if (saved / AUDIO_MODULES).is_file():
        wanted[folder / f"{name}{AUDIO}.safetensors"] = saved / AUDIO_MODULES
    if preview is not None and preview.is_file():
        wanted[folder / f"{name}.png"] = preview
    with report_write_errors(settings={"WANAVATAR_WEIGHTS": folder}):
        before = _files_of(notes, run)
        foreign = [path for path in (*wanted, notes) if path.exists() and path.name not in before]
        if foreign:
            problem = f"{name!r} is taken: {foreign[0]} belongs to something else; give another name"
            raise RequestError([("lora_name", problem)])
        description = f"How one person moves their lips, from {step} steps of training. Usual strength: {strength:g}."
        files = {path.name for path in (*wanted, notes)}
        noted = {"description": description, "usual_weight": strength, _RUN: str(run.absolute()), "step": step}
        folder.mkdir(parents=True, exist_ok=True)
        # the notes first: if this process is killed, the files copied so far are known as the run's own
        write_json(notes, noted | {_FILES: sorted(files | before)})
        for target, source in wanted.items():
            with whole_file(target) as draft:
                shutil.copyfile(source, draft)
        for gone in before - files:
            # of an earlier training in the same folder, which had modules that this one has not
            (folder / gone).unlink(missing_ok=True)
        # names of removed files are free for other LoRAs
        write_json(notes, noted | {_FILES: sorted(files)})
    return _listed(run, file, [path.stem for path in wanted if path.suffix == file.suffix], step)


def find_published(run: Path, name: str) -> Published | None:
    """The LoRA of a run that is in the list already; None if it is not, or belongs to another run."""
    file, notes = (_folder() / f"{name}{suffix}" for suffix in (".safetensors", ".json"))
    files = _files_of(notes, run)
    if not _NAME.fullmatch(name) or not file.is_file() or not files:
        return None
    audio = file.with_name(f"{name}{AUDIO}.safetensors")
    names = [name, audio.stem] if audio.name in files and audio.is_file() else [name]
    try:
        return _listed(run, file, names, int(json.loads(notes.read_text(encoding="utf-8"))["step"]))
    except LabError:  # it is damaged; publishing it again repairs it
        return None


def _checkpoint(run: Path, wanted: str) -> Path:
    """The checkpoint of a run that `publish` copies: newest, best, or the name of its folder."""
    saved = {path.name: path for path in checkpoints(run)}
    if not saved:
        raise LabError(f"The training in {run} has no checkpoint yet. Train with notebook 11 first.")
    best = best_of(run) if wanted == BEST else None
    if best:
        return best[0]
    if wanted != NEWEST and wanted not in saved:
        named = [NEWEST, *([BEST] if wanted != BEST else []), *saved]
        raise RequestError([("checkpoint", must_be(" or ".join(named), wanted))])
    return saved.get(wanted, [*saved.values()][-1])


def _folder() -> Path:
    return Path(read_settings().weights_dir).absolute() / PLACE


def _files_of(notes: Path, run: Path) -> set[str]:
    """Names of the files of a run's LoRA, by its notes; empty if the notes are missing or not of this run."""
    try:
        noted: Any = json.loads(notes.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return set()
    if not isinstance(noted, dict) or noted.get(_RUN) != str(run.absolute()):
        return set()
    # notes of early versions do not list the files
    usual = [notes.with_suffix(suffix).name for suffix in (".json", ".safetensors", ".png")]
    return {Path(name).name for name in noted.get(_FILES, usual)}


def _listed(run: Path, file: Path, names: list[str], step: int) -> Published:
    """The LoRA as the list reads it from its file, so that rank and alpha are those that will be applied."""
    weights = Path(read_settings().weights_dir).absolute()
    adapters = {path: adapter for adapter in find_adapters(weights) for path in adapter.files.values()}
    (found,) = describe([adapters[file]], weights)
    if found.problem or found.rank is None or found.alpha is None:
        raise LabError(f"{file} cannot be used: {found.problem or 'it has no rank or no alpha'}")
    by_stem = {path.stem: adapter.name for path, adapter in adapters.items() if path.parent == file.parent}
    best = best_of(run)
    other = (step_of(best[0]), best[1]) if best and step_of(best[0]) != step else None
    return Published(tuple(by_stem[name] for name in names), file, found.rank[1], found.alpha[1], step, other)
