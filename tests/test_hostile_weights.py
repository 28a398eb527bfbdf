"""Weights files that execute code when they are loaded: every way into the program refuses them, and none is run."""

import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import toy_flux, toy_i2v, toys
from tests.s2v.toy import toy_model, toy_vae
from tests.training.loop.test_checkpoint import begun
from tests.training.toy import config_of, write_samples
from training.data.samples import NO_TEXT, Samples
from training.loop.checkpoint import STATE, save_checkpoint
from training.loop.run_folder import AUDIO_MODULES, WEIGHTS
from training.loop.warm_start import PROJECTOR, init_from
from training.train import train
from wanavatar_lab import jobs
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.find import describe, find_adapters
from wanavatar_lab.requests import Upscale
from wanavatar_lab.s2v import WanS2VTransformer3DModel, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.stages import image_to_video, text_to_image
from wanavatar_lab.stages.upscale import Models, read_network
from wanavatar_lab.wan.load import load_model, load_text_encoder, load_vae

UNHARMED = b"unharmed"
GOLDEN = Path(__file__).parent / "golden"


class Scripted(torch.nn.Module):
    """Writes a file when its archive is loaded, by operators that TorchScript has itself."""

    def __init__(self, target: str) -> None:
        super().__init__()
        self.target = target

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return given

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.target, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.target = state[0]
        self.training = state[1]
        torch.save("overwritten", self.target)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').write('overwritten')",)


def state_with(payload: Payload) -> dict[str, Any]:
    """A state dict that begins as Real-ESRGAN's."""
    return {"params_ema": {"conv_first.weight": torch.ones(8, 12, 3, 3), "hostile": payload}}


HOSTILE: dict[str, Callable[[Path, Path], object]] = {
    "torchscript": lambda file, target: torch.jit.script(Scripted(str(target))).save(str(file)),
    "pickle in a zip": lambda file, target: torch.save(state_with(Payload(target)), file),
    "legacy pickle": lambda file, target: torch.save(
        state_with(Payload(target)), file, _use_new_zipfile_serialization=False
    ),
    "bare pickle": lambda file, target: file.write_bytes(pickle.dumps(Payload(target))),
}


@pytest.fixture(name="target")
def target_fixture(tmp_path: Path) -> Iterator[Path]:
    """A file that belongs to the user; it has to be as it was when the test ends."""
    target = tmp_path / "belongs_to_the_user.txt"
    target.write_bytes(UNHARMED)
    yield target
    assert target.read_bytes() == UNHARMED, "the file's code was executed"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "3")


@pytest.mark.parametrize("kind", HOSTILE)
def test_the_files_are_hostile(kind: str, tmp_path: Path) -> None:
    """Loaded carelessly, each overwrites the file: what the other tests offer is alive."""
    target = tmp_path / "mine.txt"
    target.write_bytes(UNHARMED)
    HOSTILE[kind](tmp_path / "file.pth", target)
    assert target.read_bytes() == UNHARMED
    if kind == "bare pickle":
        pickle.loads((tmp_path / "file.pth").read_bytes())
    else:
        torch.load(tmp_path / "file.pth", weights_only=False)
    assert b"overwritten" in target.read_bytes()


# --- where files come in: each makes a place for the file, has it put there, and opens it

Tensors = dict[str, torch.Tensor]
# writes a file, given what an honest one would hold
Put = Callable[[Path, Tensors], object]


def saved(model: Any, folder: Path, put: Put) -> Path:
    """A folder as `save_pretrained` writes it, with the file instead of the weights and under the older ending."""
    model.save_pretrained(folder)
    (file,) = folder.glob("*.safetensors")
    file.unlink()
    put(folder / f"{'pytorch_model' if file.stem == 'model' else file.stem}.bin", model.state_dict())
    return folder


def instead_of(file: Path, put: Put) -> None:
    tensors = load_file(file)
    file.unlink()
    put(file, tensors)


def upscale_as(name: str, opened: Callable[[Path], object]) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        put(place / name, torch.load(GOLDEN / "realesrgan_x2" / "toy_x2.pth", weights_only=True)["params_ema"])
        opened(place / name)

    return open_it


def s2v_by(load: Callable[[Path], object]) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        toy_model().save_pretrained(place / "s2v")
        instead_of(place / "s2v" / "diffusion_pytorch_model.safetensors", put)
        load(place / "s2v")

    return open_it


def published_part(name: str, load: Callable[[Path], object]) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        put(place / name, torch.load(GOLDEN / "reference_parts" / name, weights_only=True))
        load(place / name)

    return open_it


def model_folder(make: Callable[[], Any]) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        model = make()
        load_model(type(model), saved(model, place / "part", put), torch.float32)

    return open_it


def pipeline_part(make: Callable[[], Any], part: str, load: Callable[[Path], object]) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        pipeline = make()
        pipeline.save_pretrained(place / "all")
        (place / "all" / part).rename(place / "before")
        saved(getattr(pipeline, part), place / "all" / part, put)
        load(place / "all")

    return open_it


def training_resumed(name: str) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        write_samples(place / "samples")
        config = config_of(place, max_train_steps=2)
        network, _, optimizer = begun(place)
        folder = save_checkpoint(config.run, 2, network, optimizer, {}, limit=1)
        instead_of(folder / name, put)
        train(config, toy_model())

    return open_it


def training_begun_with(name: str) -> Callable[[Path, Put], None]:
    def open_it(place: Path, put: Put) -> None:
        network, trainable, optimizer = begun(place, audio_encoder_rate=1e-3)
        folder = save_checkpoint(place, 1, network, optimizer, {}, 1, trainable.origins)
        theirs = {"casual_audio_encoder.weights": torch.ones(1, 3, 1, 1)}
        put(place / name, theirs if name == PROJECTOR else load_file(folder / name))
        init_from(place, network, trainable.origins)

    return open_it


def encoded_samples(place: Path, put: Put) -> None:
    write_samples(place)
    instead_of(place / NO_TEXT, put)
    Samples(place)


def encoded_sample(place: Path, put: Put) -> None:
    write_samples(place)
    samples = Samples(place)
    instead_of(place / f"{samples.entries[0].name}.safetensors", put)
    samples.batch([0], "cpu")


I2V = partial(image_to_video.load_pipeline, dtype=torch.float32)
FLUX2 = partial(text_to_image.load_pipeline, dtype=torch.float32)

DOORS: dict[str, Callable[[Path, Put], None]] = {
    "upscale, .pth": upscale_as("x2.pth", partial(read_network, device="cpu")),
    "upscale, .safetensors": upscale_as("x2.safetensors", partial(read_network, device="cpu")),
    "upscale, the profile's file": upscale_as("x2.PTH", lambda file: Models(file.parent, "cpu").network()),
    "s2v, from_official": s2v_by(WanS2VTransformer3DModel.from_official),
    "s2v, from_pretrained": s2v_by(WanS2VTransformer3DModel.from_pretrained),
    "VAE, .pth": published_part("vae.pth", load_vae),
    "text encoder, .pth": published_part("t5.pth", load_text_encoder),
    "VAE, .bin": model_folder(toys.wan_vae),
    "text encoder, .bin": model_folder(lambda: toys.text_encoder()[0]),
    "audio encoder, .bin": model_folder(lambda: toys.audio_encoder()[0]),
    "s2v, audio encoder": pipeline_part(toys.s2v_pipeline, "audio_encoder", load_components),
    "i2v, expert": pipeline_part(toy_i2v.i2v_pipeline, "transformer_2", I2V),
    "i2v, VAE": pipeline_part(toy_i2v.i2v_pipeline, "vae", I2V),
    "FLUX.2, text encoder": pipeline_part(toy_flux.pipeline, "text_encoder", FLUX2),
    "FLUX.2, transformer": pipeline_part(toy_flux.pipeline, "transformer", FLUX2),
    "training, resumed weights": training_resumed(WEIGHTS),
    "training, resumed state": training_resumed(STATE),
    "training, begun with a LoRA": training_begun_with(WEIGHTS),
    "training, begun with audio modules": training_begun_with(AUDIO_MODULES),
    "training, begun with a projector": training_begun_with(PROJECTOR),
    "training, list of samples": encoded_samples,
    "training, sample": encoded_sample,
}


def honest(file: Path, tensors: Tensors) -> None:
    if file.suffix == ".safetensors":
        save_file(tensors, file, {"format": "pt"})
    else:
        torch.save(tensors, file)


@pytest.mark.parametrize("door", DOORS)
def test_an_honest_file_is_read(door: str, tmp_path: Path) -> None:
    """What the next test refuses is refused for what is in it, not for where it lies."""
    DOORS[door](tmp_path, honest)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("door", DOORS)
def test_no_door_executes_a_weights_file(door: str, kind: str, target: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(WeightsError, match=str(place)):
        DOORS[door](place, lambda file, _: HOSTILE[kind](file, target))


@pytest.mark.parametrize("opening", [partial(read_network, device="cpu"), load_vae], ids=["upscale", "VAE"])
def test_what_is_wrong_with_it_is_said(opening: Callable[[Path], object], target: Path, tmp_path: Path) -> None:
    for kind, said in {
        "torchscript": "refused: it is a TorchScript archive, which can run code",
        "pickle in a zip": "refused: it is damaged, or holds more than tensors, which could run code",
        "legacy pickle": "refused: it is damaged, or holds more than tensors, which could run code",
        "bare pickle": "not a file of tensors as torch.save writes it, and was not opened",
    }.items():
        file = tmp_path / f"{kind}.pth"
        HOSTILE[kind](file, target)
        with pytest.raises(WeightsError, match=said):
            opening(file)


# --- LoRA files


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_lora_is_listed_with_its_problem_and_not_executed(kind: str, target: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights" / "loras" / "img" / "face.safetensors"
    file.parent.mkdir(parents=True)
    HOSTILE[kind](file, target)
    (found,) = describe(find_adapters(tmp_path / "weights"), tmp_path / "weights")
    assert str(file) in found.problem


@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_load_lora_weights_executes_nothing(kind: str, ending: str, target: Path, tmp_path: Path) -> None:
    file = tmp_path / f"face{ending}"
    HOSTILE[kind](file, target)
    pipeline = WanSpeechToVideoPipeline(transformer=toy_model(), vae=toy_vae())
    # the errors are diffusers' own
    with pytest.raises((OSError, ValueError)):
        pipeline.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name="face")


# --- code beside the weights


@pytest.mark.parametrize(
    ("make", "load"),
    [(toys.s2v_pipeline, load_components), (toy_i2v.i2v_pipeline, I2V)],
    ids=["s2v", "i2v"],
)
def test_code_that_a_tokenizer_brings_never_runs_and_nobody_is_asked(
    make: Callable[[], Any],
    load: Callable[[Path], object],
    target: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make().save_pretrained(tmp_path / "all")
    folder = tmp_path / "all" / "tokenizer"
    (folder / "own.py").write_text(f"open({str(target)!r}, 'w').write('overwritten')\nclass Own: pass\n")
    noted = json.loads((folder / "tokenizer_config.json").read_text())
    noted |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(noted))
    # transformers asks on the terminal unless that is set
    monkeypatch.setattr("builtins.input", lambda _: "y")
    load(tmp_path / "all")  # tokenizer.json is enough
    (folder / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match="contains custom code"):
        load(tmp_path / "all")


# --- a whole run


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_run_with_it_fails_and_says_why(kind: str, target: Path, tmp_path: Path) -> None:
    HOSTILE[kind](tmp_path / "x2.pth", target)
    request = Upscale(image=toys.picture(tmp_path / "a.png"), weights=tmp_path / "x2.pth")
    status = jobs.run_here(request).status()
    assert (status.state, status.artifacts) == ("failed", [])
    assert status.error and str(tmp_path / "x2.pth") in status.error
