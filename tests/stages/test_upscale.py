"""The stage upscale from request to file: against Real-ESRGAN's own results, and where it has to refuse or to stop."""

import pickle
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests import toys
from training.pocket.upscale.network import build, published
from wanavatar_lab import jobs, media, read_settings
from wanavatar_lab.errors import Cancelled, LabError, RequestError, WeightsError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.requests import Upscale, parse
from wanavatar_lab.runs.run import Run
from wanavatar_lab.stages import context
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.stages.upscale import Models, enlarge, read_network, tiles

GOLDEN = Path(__file__).parent.parent / "golden" / "realesrgan_x2"


@pytest.fixture(autouse=True)
def runs_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RRDBNet that makes of a picture something that differs everywhere."""
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    save_file(published(build(seed=3, features=8, blocks=1).state_dict()), path)
    return path


def levels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def upscaled(run: Run) -> np.ndarray:
    status = run.status()
    assert status.state == "succeeded", status.error
    (artifact,) = status.artifacts
    assert (artifact.kind, artifact.role, artifact.file) == ("picture", "upscaled", "upscaled.png")
    return levels(run.path(artifact))


def why_it_failed(run: Run) -> str:
    status = run.status()
    assert (status.state, status.artifacts) == ("failed", [])
    assert not list(run.folder.glob("*.png"))
    return status.error or ""


# --- against Real-ESRGAN


@pytest.mark.parametrize(("tile", "expected"), [(48, "output_tile48"), (0, "output_whole"), (512, "output_whole")])
def test_equal_to_real_esrgans_own_program(tile: int, expected: str) -> None:
    request = Upscale(image=GOLDEN / "input.png", weights=GOLDEN / "toy_x2.pth", tile=tile)
    off = np.abs(upscaled(jobs.run_here(request)) - levels(GOLDEN / f"{expected}.png"))
    assert off.max() <= 1
    assert off.mean() < 0.01


@pytest.mark.gpu
def test_half_precision_is_within_a_level_too(tmp_path: Path) -> None:
    network = read_network(GOLDEN / "toy_x2.pth", "cuda")
    assert network.dtype == torch.float16
    picture = media.read_samples(GOLDEN / "input.png").levels
    for tile, expected in ((48, "output_tile48"), (0, "output_whole")):
        made = enlarge(picture, network, tile, StageContext(tmp_path, 0)).astype(int)
        assert np.abs(made - levels(GOLDEN / f"{expected}.png")).max() <= 1


def test_dense_blocks_of_any_width_are_the_same_function(tmp_path: Path) -> None:
    state = torch.load(GOLDEN / "toy_x2.pth", weights_only=True)["params_ema"]
    picture = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    training = {"iter": 400, "params": {"conv_first.weight": torch.zeros(1)}, "params_ema": state}
    contents = {"params_ema": {"params_ema": state}, "params": {"params": state}, "bare": state, "training": training}
    contents["another_key"] = {"generator": {f"module.{name}": tensor for name, tensor in state.items()}}
    for name, content in contents.items():
        for in_zip in (True, False):  # False is what torch.save wrote before 1.6, as ESRGAN's own files are
            torch.save(content, tmp_path / f"{name}.pth", _use_new_zipfile_serialization=in_zip)
            made = read_network(tmp_path / f"{name}.pth", "cpu").module(picture)
            assert torch.allclose(made, by_hand(state, picture), atol=1e-5)


@pytest.mark.parametrize("unshuffled", [True, False], ids=["Real-ESRGAN's", "ESRGAN's"])
def test_the_older_layout_is_read_too(unshuffled: bool, tmp_path: Path) -> None:
    """Of both forms that enlarge twofold: on unshuffled pixels two enlargements, on plain ones a single one."""
    state = torch.load(GOLDEN / "toy_x2.pth", weights_only=True)["params_ema"]
    ups = ["conv_up1", "conv_up2"] if unshuffled else ["conv_up1"]
    if not unshuffled:
        state["conv_first.weight"] = state["conv_first.weight"][:, :3].contiguous()
        state = {name: tensor for name, tensor in state.items() if "conv_up2" not in name}
    # an enlargement takes three places in its list of layers, and a bend one
    places = {"conv_first": 0, **{up: 3 * place for place, up in enumerate(ups, start=1)}}
    places |= {"conv_hr": 3 * len(ups) + 2, "conv_last": 3 * len(ups) + 4}
    old = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if module == "conv_body":
            module = "model.1.sub.2"
        elif match := re.fullmatch(r"body\.(\d)\.rdb(\d)\.conv(\d)", module):
            module = "model.1.sub.{}.RDB{}.conv{}.0".format(*match.groups())
        else:
            module = f"model.{places[module]}"
        old[f"{module}.{leaf}"] = tensor
    torch.save(old, tmp_path / "old.pth")
    picture = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    made = read_network(tmp_path / "old.pth", "cpu").module(picture)
    assert made.shape == (1, 3, 24, 20)
    assert torch.allclose(made, by_hand(state, picture), atol=1e-5)


def by_hand(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """RRDBNet as the paper has it, straight from the tensors."""

    def conv(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def bent(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.leaky_relu(x, 0.2)

    unshuffled = state["conv_first.weight"].shape[1] == 12
    first = x = conv("conv_first", torch.nn.functional.pixel_unshuffle(x, 2) if unshuffled else x)
    for block in range(2):
        entered = x
        for dense in (1, 2, 3):
            grown = [x]
            for layer in range(1, 6):
                y = conv(f"body.{block}.rdb{dense}.conv{layer}", torch.cat(grown, dim=1))
                grown.append(bent(y))
            x = x + 0.2 * y
        x = entered + 0.2 * x
    x = first + conv("conv_body", x)
    for name in ("conv_up1", "conv_up2") if unshuffled else ("conv_up1",):
        x = bent(conv(name, torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")))
    return conv("conv_last", bent(conv("conv_hr", x)))


# --- pictures


@pytest.mark.parametrize("size", [(131, 97), (1, 1), (75, 1), (1, 64), (2, 3), (32, 33)])
def test_any_size_becomes_twice_as_wide_and_high(size: tuple[int, int], tmp_path: Path, weights: Path) -> None:
    picture = pixels_of(toys.picture(tmp_path / "a.png", size))
    for tile in (0, 32, 33):
        made = enlarge(picture, read_network(weights, "cpu"), tile, StageContext(tmp_path, 0))
        assert made.shape == (2 * size[1], 2 * size[0], 3)


def test_a_picture_one_pixel_high(tmp_path: Path, weights: Path) -> None:
    made = upscaled(jobs.run_here(Upscale(image=toys.picture(tmp_path / "a.png", (75, 1)), weights=weights)))
    assert made.shape == (2, 150, 3)


@pytest.mark.parametrize("tile", [32, 33, 64])
def test_tiles_leave_no_seam(tile: int, tmp_path: Path) -> None:
    # a network that sees no farther than the overlap: then tiles change nothing at all
    state = published(build(seed=3, features=8, blocks=1).state_dict())
    for name, tensor in state.items():
        if name.startswith("body"):
            tensor.zero_()
    save_file(state, tmp_path / "near.safetensors")
    network = read_network(tmp_path / "near.safetensors", "cpu")
    picture = pixels_of(toys.picture(tmp_path / "a.png", (101, 77)))

    def made(side: int) -> np.ndarray:
        return enlarge(picture, network, side, StageContext(tmp_path, 0)).astype(int)

    assert np.abs(made(tile) - made(0)).max() <= 1
    assert made(0).std() > 5


@pytest.mark.parametrize(("height", "width", "tile"), [(90, 130, 48), (64, 64, 32), (2, 200, 33), (50, 50, 0)])
def test_every_pixel_lies_in_one_tile_and_the_network_sees_ten_more(height: int, width: int, tile: int) -> None:
    times = np.zeros((height, width), int)
    for part in tiles(height, width, tile):
        times[part.rows, part.columns] += 1
        assert part.seen_rows.start == max(0, part.rows.start - 10)
        assert part.seen_columns.stop == min(width, part.columns.stop + 10)
        assert part.seen_rows.start % 2 == part.seen_columns.start % 2 == 0
    assert (times == 1).all()


def made_by_real_esrgan(given: np.ndarray, weights: Path) -> np.ndarray:
    """What RealESRGANer.enhance does around the network, without tiles: its steps, on arrays in OpenCV's order."""
    network = read_network(weights, "cpu").module

    def enhanced(bgr: np.ndarray) -> np.ndarray:
        rgb = torch.from_numpy(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)).permute(2, 0, 1)[None]
        with torch.no_grad():
            made = network(rgb)[0].clamp(0, 1).numpy()
        return np.ascontiguousarray(made[[2, 1, 0]].transpose(1, 2, 0))

    most = 65535 if given.max() > 256 else 255
    levels = given.astype(np.float32) / most
    if levels.ndim == 2:
        made = cv2.cvtColor(enhanced(cv2.cvtColor(levels, cv2.COLOR_GRAY2BGR)), cv2.COLOR_BGR2GRAY)
    else:
        made = enhanced(np.ascontiguousarray(levels[:, :, :3]))
        if levels.shape[2] == 4:
            opacity = enhanced(cv2.cvtColor(np.ascontiguousarray(levels[:, :, 3]), cv2.COLOR_GRAY2BGR))
            made = np.dstack([made, cv2.cvtColor(opacity, cv2.COLOR_BGR2GRAY)])
    return (made * most).round().astype(given.dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_transparency_16_bits_and_grey_are_kept(
    channels: int, dtype: Any, suffix: str, tmp_path: Path, weights: Path
) -> None:
    """Against the reference's own steps, from a file that its own reader reads to a file that it reads back."""
    most, rng = np.iinfo(dtype).max, np.random.default_rng(channels)
    given = cv2.resize(rng.integers(0, most + 1, (8, 10, channels)).astype(np.float32), (40, 32))
    cv2.imwrite(str(tmp_path / f"a{suffix}"), given.clip(0, most).astype(dtype))
    run = jobs.run_here(Upscale(image=tmp_path / f"a{suffix}", weights=weights, tile=0))
    made = cv2.imread(str(run.path(run.status().artifacts[0])), cv2.IMREAD_UNCHANGED)
    assert run.status().seed is None  # nothing is drawn at random
    read = cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_UNCHANGED)
    assert made is not None and read is not None
    wanted = made_by_real_esrgan(read, weights)
    assert made.dtype == dtype and made.shape == wanted.shape
    assert np.abs(made.astype(int) - wanted).max() <= 1
    assert read_settings(run.path(run.status().artifacts[0])).to_request().stage == "upscale"


def test_the_same_picture_gives_the_same_bytes_and_says_what_made_it(tmp_path: Path, weights: Path) -> None:
    request = Upscale(image=toys.picture(tmp_path / "a.png"), weights=weights)
    runs = [jobs.run_here(request) for _ in range(2)]
    first, second = (run.folder / "upscaled.png" for run in runs)
    assert first.read_bytes() == second.read_bytes()
    network = read_network(weights, "cpu")
    said = read_settings(first)
    assert said.to_request() == Upscale(image="a.png", weights=weights.name)
    assert said.weights == {"toy.safetensors": network.sha256}
    assert said.inputs == {
        "image": {"name": "a.png", "sha256": sha256_of(tmp_path / "a.png")},
        "weights": {"name": weights.name, "sha256": network.sha256},
    }
    assert str(tmp_path).encode() not in first.read_bytes()
    manifest = runs[0].manifest()
    assert manifest["facts"]["weights"] == {"toy.safetensors": network.sha256}
    assert manifest["inputs"]["weights"]["sha256"] == network.sha256


def test_a_result_larger_than_can_be_read_is_refused(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Upscale(image=toys.picture(tmp_path / "a.png", (80, 96)), weights=weights)
    monkeypatch.setenv("WANAVATAR_MAX_PICTURE_PIXELS", "30720")
    upscaled(jobs.run_here(request))
    monkeypatch.setenv("WANAVATAR_MAX_PICTURE_PIXELS", "30719")
    error = why_it_failed(jobs.run_here(request))
    assert "80×96" in error and "30,720" in error and "WANAVATAR_MAX_PICTURE_PIXELS" in error


# --- weights


def growing_by(channels: int, scale: int = 2) -> dict[str, torch.Tensor]:
    """A published layout with other sizes."""
    state = {
        "conv_first.weight": torch.zeros(8, 12 if scale == 2 else 3, 3, 3),
        "conv_first.bias": torch.zeros(8),
        "conv_last.weight": torch.zeros(3, 8, 3, 3),
        "conv_last.bias": torch.zeros(3),
    }
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        state |= {f"{name}.weight": torch.zeros(8, 8, 3, 3), f"{name}.bias": torch.zeros(8)}
    for dense in (1, 2, 3):
        for layer in range(1, 6):
            out = channels if layer < 5 else 8
            name = f"body.0.rdb{dense}.conv{layer}"
            state[f"{name}.weight"] = torch.zeros(out, 8 + (layer - 1) * channels, 3, 3)
            state[f"{name}.bias"] = torch.zeros(out)
    return state


class Harmful:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return Path("harmed").write_text, ("",)  # type: ignore[return-value]


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "x4.pth": (lambda path: torch.save(growing_by(32, scale=4), path), "enlarges ×4"),
    "wide.safetensors": (lambda path: save_file(growing_by(48), path), "grow by 48 channels"),
    "other.safetensors": (lambda path: save_file({"proj.weight": torch.zeros(2, 2)}, path), "holds no RRDBNet"),
    "words.pth": (lambda path: path.write_text("not weights"), "not a file of tensors as torch.save"),
    "words.safetensors": (lambda path: path.write_text("not weights"), "cannot be read"),
    "cut.pth": (lambda path: path.write_bytes((GOLDEN / "toy_x2.pth").read_bytes()[:400_000]), "is damaged"),
    "lacking.pth": (
        lambda path: torch.save({k: v for k, v in growing_by(32).items() if "rdb2.conv3" not in k}, path),
        "cannot be read",
    ),
    "harmful.pth": (lambda path: path.write_bytes(pickle.dumps(Harmful())), "was not opened"),
    "list.pth": (lambda path: torch.save([1, 2], path), "holds a list instead of named tensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_no_x2_rrdbnet_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, reason = WRONG[name]
    make(tmp_path / name)
    with pytest.raises(WeightsError, match=reason) as caught:
        read_network(tmp_path / name, "cpu")
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "harmed").exists()


def test_a_wrong_file_fails_the_run(tmp_path: Path) -> None:
    torch.save(growing_by(32, scale=4), tmp_path / "x4.pth")
    error = why_it_failed(jobs.run_here(Upscale(image=toys.picture(tmp_path / "a.png"), weights=tmp_path / "x4.pth")))
    assert str(tmp_path / "x4.pth") in error and "enlarges ×4" in error and "RealESRGAN_x2plus.pth" in error


def test_missing_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    picture = toys.picture(tmp_path / "a.png")
    assert str(tmp_path / "RealESRGAN_x2plus.pth") in why_it_failed(jobs.run_here(Upscale(image=picture)))
    pocket = Upscale(image=picture, profile="pocket")
    assert str(tmp_path / "pocket" / "upscale") in why_it_failed(jobs.run_here(pocket))
    (tmp_path / "pocket" / "upscale").mkdir(parents=True)
    assert "holds none" in why_it_failed(jobs.run_here(pocket))


def test_a_weights_file_of_another_kind_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"weights: must be the path .* \.pth, or empty \(got 'a.onnx'\)"):
        parse("upscale", {"image": "a.png", "weights": "a.onnx"})
    picture = toys.picture(tmp_path / "a.png")
    with pytest.raises(RequestError, match=r"weights: .*no.pth' does not exist"):
        jobs.submit(Upscale(image=picture, weights=tmp_path / "no.pth"))


def test_the_profiles_own_weights_are_used_again_after_others(tmp_path: Path, weights: Path) -> None:
    own = tmp_path / "pocket"
    own.mkdir()
    save_file(published(build(seed=4, features=8, blocks=1).state_dict()), own / "own.safetensors")
    models = Models(own, "cpu")
    first = models.network()
    assert models.network() is first, "it is kept warm"
    assert models.network(str(weights)).file == "toy.safetensors"
    assert models.network().sha256 == first.sha256
    save_file(published(build(seed=5, features=8, blocks=1).state_dict()), own / "own.safetensors")
    assert models.network().sha256 != first.sha256, "the file has been replaced"


# --- progress, cancel, failure


def test_progress_tells_of_every_tile(tmp_path: Path, weights: Path) -> None:
    steps: list[Step] = []
    picture = pixels_of(toys.picture(tmp_path / "a.png", (90, 60)))
    enlarge(picture, read_network(weights, "cpu"), 32, StageContext(tmp_path, 0, steps.append))
    assert steps == [Step("upscale", number, 6) for number in range(7)]


def test_cancel_takes_effect_between_two_tiles(tmp_path: Path, weights: Path) -> None:
    done: list[int] = []

    def on_step(step: Step) -> None:
        done.append(step.step)
        if step.step == 2:
            (tmp_path / "cancel").touch()

    picture = pixels_of(toys.picture(tmp_path / "a.png", (90, 60)))
    with pytest.raises(Cancelled):
        enlarge(picture, read_network(weights, "cpu"), 32, StageContext(tmp_path, 0, on_step))
    assert done == [0, 1, 2]


def test_cancel_takes_effect_within_a_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "LOOK_EVERY", 0.0)
    save_file(published(build(seed=3, features=8, blocks=3).state_dict()), tmp_path / "three.safetensors")
    network, blocks = read_network(tmp_path / "three.safetensors", "cpu"), list[Any]()

    def cancel(block: Any, *_: Any) -> None:
        blocks.append(block)
        (tmp_path / "cancel").touch()

    for part in network.module.modules():
        if type(part).__name__ == "RRDB":
            part.register_forward_hook(cancel)
    picture = pixels_of(toys.picture(tmp_path / "a.png", (90, 60)))
    with pytest.raises(Cancelled):
        enlarge(picture, network, 0, StageContext(tmp_path, 0))
    assert len(blocks) == 1


def test_a_cancelled_run_leaves_no_picture(tmp_path: Path, weights: Path) -> None:
    request = Upscale(image=toys.picture(tmp_path / "a.png", (900, 900)), weights=weights, tile=32)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(jobs.run_here, request)
        while not (found := jobs.list_jobs()) or (found[0].status().step or 0) < 2:
            assert not running.done()
            time.sleep(0.01)
        found[0].cancel()
        run = running.result()
    status = run.status()
    assert (status.state, status.steps) == ("cancelled", 29 * 29)
    assert (status.step or 0) < 29 * 29
    assert not list(run.folder.glob("*.png"))


def test_a_network_that_gives_no_numbers_fails_the_run(tmp_path: Path) -> None:
    state = published(build(seed=3, features=8, blocks=1).state_dict())
    state["conv_last.bias"][1] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    run = jobs.run_here(Upscale(image=toys.picture(tmp_path / "a.png"), weights=tmp_path / "nan.safetensors"))
    assert "nan.safetensors gave values that are not finite" in why_it_failed(run)


def test_too_little_memory_says_to_take_smaller_tiles(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = read_network(weights, "cpu")

    def full(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(network.module, "forward", full)
    picture = pixels_of(toys.picture(tmp_path / "a.png"))
    with pytest.raises(LabError, match="not enough memory for 80×96 pixels at once"):
        enlarge(picture, network, 0, StageContext(tmp_path, 0))
    with pytest.raises(LabError, match="tiles of 64 pixels"):
        enlarge(picture, network, 64, StageContext(tmp_path, 0))
