"""LoRAs from a request to every call of a network, in the three stages that take them."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tests import toy_flux, toys
from tests.lora.files import State, distilled, merged, save, tiny, whole_file
from tests.s2v.toy import flow, relative_error
from tests.toy_i2v import i2v_pipeline
from wanavatar_lab import jobs
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora import apply
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage
from wanavatar_lab.requests.presets import preset_values
from wanavatar_lab.stages import image_to_video, speech_to_video, text_to_image
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.weights import WEIGHTS

Adapt = Callable[[nn.Module], nn.Module]


class Calls:
    """What a network was called with and gave, call by call."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.given: list[dict[str, Any]] = []
        self.made: list[torch.Tensor] = []
        self.weights: list[list[float]] = []
        self._hook = network.register_forward_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, __: Any, given: dict[str, Any], made: tuple[torch.Tensor]) -> None:
        self.given.append({name: value for name, value in given.items() if name not in ("memory", "return_dict")})
        self.made.append(made[0])
        self.weights.append(sorted(adapters_of(self.network).weights.values()))

    def end(self) -> "Calls":
        self._hook.remove()
        return self

    def assert_made_by(self, adapted: list[nn.Module]) -> None:
        """Every call gave what the network of the same place gives."""
        assert len(adapted) == len(self.made)
        for network, given, made in zip(adapted, self.given, self.made, strict=True):
            assert relative_error(made, flow(network, given)) <= 2e-5


def ran(stage: Any, models: Any, request: Any, *parts: str) -> tuple[list[Calls], StageContext]:
    calls = [Calls(getattr(models.pipeline, part)) for part in parts or ("transformer",)]
    context = StageContext(Path(tempfile.mkdtemp()), seed=1)
    try:
        stage.run(request, models, context)
    finally:
        for one in calls:
            one.end()
    return calls, context


def picture_request(**fields: Any) -> TextToImage:
    return TextToImage(
        **{"profile": "pocket", "prompt": "a woman", "width": 64, "height": 64, "upscale": False} | fields
    )


def clip_request(place: Path, **fields: Any) -> ImageToVideo:
    values = {"profile": "pocket", "image": str(toys.picture(place / "a.png")), "prompt": "a person", "frame_num": 5}
    return ImageToVideo(**values | {"resolution": "64x64", "num_inference_steps": 4, "guidance_scale": 1.0} | fields)


def talk_request(place: Path, **fields: Any) -> SpeechToVideo:
    values = {
        "profile": "pocket",
        "image": str(toys.picture(place / "a.png")),
        "audio": str(toys.voice(place / "v.wav")),
    }
    sizes = {"resolution": "64x64", "frames_per_segment": 8, "num_inference_steps": 6, "guidance_scale": 1.0}
    return SpeechToVideo(**values | sizes | fields)


def test_a_picture_has_one_weight(place: Path) -> None:
    _, freckles = whole_file(place / "loras/img/freckles.safetensors", toy_flux.transformer(), 0)
    _, paint = whole_file(place / "loras/img/paint.safetensors", toy_flux.transformer(), 1)
    models = text_to_image.load(PROFILES["pocket"], "cpu")
    plain = merged(models.pipeline.transformer)  # a copy
    (calls,), context = ran(text_to_image, models, picture_request(loras=["freckles:0.8", "paint:0.3"]))
    both = merged(plain, freckles, paint, weights=(0.8, 0.3))
    calls.assert_made_by([both] * 4)
    assert [(lora["name"], lora["weight"]) for lora in context.facts["loras"]] == [("freckles", 0.8), ("paint", 0.3)]
    # what a later request does not name is not applied, and what it names once more is there
    (calls,), context = ran(text_to_image, models, picture_request())
    calls.assert_made_by([plain] * 4)
    assert context.facts["loras"] == []
    (calls,), _ = ran(text_to_image, models, picture_request(loras=["paint"]))
    calls.assert_made_by([merged(plain, paint)] * 4)


def test_each_expert_has_its_weight(place: Path) -> None:
    network = i2v_pipeline().transformer
    _, ann = whole_file(place / "loras/mov/character/ann.safetensors", network, 0)
    _, high = whole_file(place / "loras/mov/move/walk_high_noise.safetensors", network, 1)
    _, low = whole_file(place / "loras/mov/move/walk_low_noise.safetensors", network, 2)
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    first, second = merged(models.pipeline.transformer), merged(models.pipeline.transformer_2)
    request = clip_request(place, loras=["ann:0.9:0.4", "walk:0.5:1.5"], num_inference_steps=6)
    calls, context = ran(image_to_video, models, request, "transformer", "transformer_2")
    assert all(len(one.made) >= 2 for one in calls)
    for one, expert, differences, weights in (
        (calls[0], first, (ann, high), (0.9, 0.5)),
        (calls[1], second, (ann, low), (0.4, 1.5)),
    ):
        one.assert_made_by([merged(expert, *differences, weights=weights)] * len(one.made))
    assert [set(lora["files"]) for lora in context.facts["loras"]] == [{"both"}, {"high", "low"}]
    # weight 0 for an expert leaves that expert alone
    calls, _ = ran(image_to_video, models, clip_request(place, loras=["ann:0:1"]), "transformer", "transformer_2")
    calls[0].assert_made_by([first] * len(calls[0].made))
    calls[1].assert_made_by([merged(second, ann)] * len(calls[1].made))
    assert adapters_of(models.pipeline.transformer).weights == {}


def test_the_preset_of_four_steps_makes_one_pass_a_step_with_the_lora_as_it_is_downloaded(place: Path) -> None:
    timesteps = [1000, 937.5, 833.3333, 625]
    weights = WEIGHTS["Wan2.2-I2V-A14B-4steps"]
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    experts = [merged(getattr(models.pipeline, part)) for part in ("transformer", "transformer_2")]
    wanted = []
    for seed, (need, expert) in enumerate(zip(weights.layouts[0].needs, experts, strict=True)):
        state, differences = distilled(expert, seed, image_branch=seed == 1)
        save(weights.path(place) / need, state)
        wanted.append(merged(expert, differences))
    request = clip_request(place, **preset_values("image_to_video", "four_steps", "full"))
    calls, context = ran(image_to_video, models, request, "transformer", "transformer_2")
    assert [len(one.made) for one in calls] == [2, 2]
    for one, network in zip(calls, wanted, strict=True):
        one.assert_made_by([network] * 2)
    seen = [float(given["timestep"]) for one in calls for given in one.given]
    assert seen == pytest.approx(timesteps)
    assert context.facts["loras"][0]["left_out"] == {"k_img": 8, "img_emb": 3}

    weights = WEIGHTS["Wan2.1-T2V-14B-4steps"]
    talking = speech_to_video.load(PROFILES["pocket"], "cpu")
    network = merged(talking.pipeline.transformer)
    state, differences = distilled(network, 3)
    save(weights.path(place) / weights.layouts[0].needs[0], state)
    asked = talk_request(place, **preset_values("speech_to_video", "four-steps", "full"))
    (one,), _ = ran(speech_to_video, talking, asked)
    segments = len(one.made) // 4
    one.assert_made_by([merged(network, differences)] * (4 * segments))
    assert [float(given["timestep"]) for given in one.given] == pytest.approx(timesteps * segments)


def test_one_file_may_hold_both_experts(place: Path) -> None:
    network = i2v_pipeline().transformer
    high_file, high = whole_file(place / "high.safetensors", network, 1)
    low_file, low = whole_file(place / "low.safetensors", network, 2)
    state = load_file(high_file) | {f"transformer_2{key[11:]}": tensor for key, tensor in load_file(low_file).items()}
    save(place / "loras/mov/move/walk.safetensors", state)
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    first, second = merged(models.pipeline.transformer), merged(models.pipeline.transformer_2)
    calls, _ = ran(image_to_video, models, clip_request(place, loras=["walk"]), "transformer", "transformer_2")
    calls[0].assert_made_by([merged(first, high)] * len(calls[0].made))
    calls[1].assert_made_by([merged(second, low)] * len(calls[1].made))


def test_half_a_pair_says_what_acts_on_nothing(place: Path) -> None:
    whole_file(place / "loras/mov/move/walk_high_noise.safetensors", i2v_pipeline().transformer)
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    calls, context = ran(image_to_video, models, clip_request(place, loras=["walk"]), "transformer", "transformer_2")
    assert [one.weights[0] for one in calls] == [[1.0], []]
    assert "walk has no file for low noise" in (context.folder / "log.txt").read_text()


def test_four_distilled_steps_take_four_passes(place: Path) -> None:
    """As the Lightning LoRAs are used: 4 steps, guidance 1, and differences of norms and biases in the files."""
    network = i2v_pipeline().transformer
    pairs: list[State] = []
    for seed, noise in enumerate(("high", "low")):
        file, pair = whole_file(place / "half.safetensors", network, seed)
        diff = {"blocks.0.norm2.weight": 0.1 * torch.randn(24), "blocks.1.ffn.net.2.bias": 0.1 * torch.randn(24)}
        more = {
            "transformer.blocks.0.norm2.diff": diff["blocks.0.norm2.weight"],
            "transformer.blocks.1.ffn.net.2.diff_b": diff["blocks.1.ffn.net.2.bias"],
        }
        save(place / f"loras/mov/move/4steps_lora_{noise}_noise.safetensors", load_file(file) | more)
        pairs.append(pair | diff)
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    experts = [merged(models.pipeline.transformer), merged(models.pipeline.transformer_2)]
    calls, _ = ran(image_to_video, models, clip_request(place, loras=["4steps_lora"]), "transformer", "transformer_2")
    assert sum(len(one.made) for one in calls) == 4
    for one, expert, difference in zip(calls, experts, pairs, strict=True):
        one.assert_made_by([merged(expert, difference)] * len(one.made))
    for one, expert in zip(calls, experts, strict=True):
        norm = one.network.get_parameter("blocks.0.norm2.weight")
        assert torch.equal(norm, expert.get_parameter("blocks.0.norm2.weight")), "the weights are as they were"


def test_four_distilled_steps_take_four_passes_in_speech_too(place: Path) -> None:
    network = toys.s2v_transformer()
    file, pair = whole_file(place / "half.safetensors", network, 3)
    diff = {"blocks.0.norm2.weight": 0.1 * torch.randn(24), "blocks.1.ffn.net.2.bias": 0.1 * torch.randn(24)}
    more = {
        "transformer.blocks.0.norm2.diff": diff["blocks.0.norm2.weight"],
        "transformer.blocks.1.ffn.net.2.diff_b": diff["blocks.1.ffn.net.2.bias"],
    }
    save(place / "loras/mov/move/4steps_lora.safetensors", load_file(file) | more)
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    plain = merged(models.pipeline.transformer)
    request = talk_request(place, loras=["4steps_lora"], num_inference_steps=4, guidance_scale=1.0, num_segments=1)
    (calls,), _ = ran(speech_to_video, models, request)
    assert len(calls.made) == 4
    calls.assert_made_by([merged(plain, pair | diff)] * 4)
    norm = models.pipeline.transformer.get_parameter("blocks.0.norm2.weight")
    assert torch.equal(norm, plain.get_parameter("blocks.0.norm2.weight")), "the weights are as they were"


@pytest.mark.parametrize("schedule", ["noise", "progress"])
def test_speech_goes_by_noise_or_by_progress(place: Path, schedule: str) -> None:
    _, ann = whole_file(place / "loras/mov/character/ann.safetensors", toys.s2v_transformer(), 0)
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    plain = merged(models.pipeline.transformer)
    request = talk_request(place, loras=["ann:1.2:0.2"], lora_schedule=schedule, lead_in=False)
    (calls,), context = ran(speech_to_video, models, request)
    sigmas = [float(given["timestep"][0]) / 1000 for given in calls.given]
    assert len(sigmas) == 12, "two segments, each with the schedule from its beginning"
    if schedule == "noise":
        wanted = [1.2 if sigma >= 0.9 else 0.2 for sigma in sigmas]
        assert 1 < wanted[:6].count(1.2) < 5
    else:
        wanted = [1.2, 1.2, 1.2, 0.2, 0.2, 0.2] * 2
    assert [weights for (weights,) in calls.weights] == pytest.approx(wanted)
    # with what was computed under the old weights still in use, the first call after a change would differ
    calls.assert_made_by([merged(plain, ann, weights=(weight,)) for weight in wanted])
    assert context.facts["loras"][0]["low_weight"] == 0.2


def test_a_pair_takes_turns_in_the_one_network_of_speech(place: Path) -> None:
    _, high = whole_file(place / "loras/mov/move/walk_high_noise.safetensors", toys.s2v_transformer(), 1)
    _, low = whole_file(place / "loras/mov/move/walk_low_noise.safetensors", toys.s2v_transformer(), 2)
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    plain = merged(models.pipeline.transformer)
    (calls,), _ = ran(speech_to_video, models, talk_request(place, loras=["walk:1:0.5"], num_segments=1))
    above = [float(given["timestep"][0]) >= 900 for given in calls.given]
    assert calls.weights == [[1.0] if one else [0.5] for one in above], "the other is out of the computation"
    calls.assert_made_by([merged(plain, high) if one else merged(plain, low, weights=(0.5,)) for one in above])


def test_guidance_of_1_takes_one_pass_in_speech(place: Path) -> None:
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    for guidance, passes in ((1.0, 4), (2.0, 8)):
        request = talk_request(place, guidance_scale=guidance, num_inference_steps=4, num_segments=1)
        (calls,), _ = ran(speech_to_video, models, request)
        assert len(calls.made) == passes


def test_runs_of_a_warm_stage_do_not_leak_into_each_other(place: Path) -> None:
    for seed, name in enumerate(("ann", "bob")):
        whole_file(place / f"loras/mov/character/{name}.safetensors", toys.s2v_transformer(), seed)
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    network = models.pipeline.transformer
    short = {"num_inference_steps": 2, "num_segments": 1}

    def made(*loras: str) -> torch.Tensor:
        (calls,), _ = ran(speech_to_video, models, talk_request(place, loras=list(loras), **short))
        assert adapters_of(network).weights == {}
        return calls.made[-1]

    plain, ann, bob = made(), made("ann"), made("bob")
    assert adapters_of(network).loaded() == set(network.peft_config)
    assert len(adapters_of(network).loaded()) == 1, "what is not named does not stay in memory"
    assert torch.equal(made("ann"), ann) and torch.equal(made("bob"), bob)
    assert torch.equal(made(), plain) and torch.equal(made("ann:0"), plain)
    assert relative_error(ann, plain) > 1e-3 and relative_error(bob, ann) > 1e-3
    # a file that is replaced under its name is another adapter
    whole_file(place / "loras/mov/character/ann.safetensors", toys.s2v_transformer(), 7)
    assert relative_error(made("ann"), ann) > 1e-3


def test_other_weights_read_no_file_and_put_nothing_new_into_the_network(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_file(place / "loras/mov/character/ann.safetensors", toys.s2v_transformer(), 0)
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    network, opened = models.pipeline.transformer, []

    def opening(file: Path, **options: Any) -> Any:
        opened.append(file)
        return safe_open(file, **options)

    monkeypatch.setattr(apply, "safe_open", opening)
    short = {"num_inference_steps": 2, "num_segments": 1}
    ran(speech_to_video, models, talk_request(place, loras=["ann:0"], **short))
    assert opened == [] and adapters_of(network).loaded() == set(), "what has no weight is not even read"
    ran(speech_to_video, models, talk_request(place, loras=["ann:1.2:0.2"], **short))
    weights = {name: id(weight) for name, weight in network.named_parameters()}
    assert len(opened) == 1 and any("lora_A" in name for name in weights)
    for lora in ("ann:0.5", "ann:0:2", "ann:0", "ann"):
        ran(speech_to_video, models, talk_request(place, loras=[lora], **short))
    assert len(opened) == 1
    assert weights == {name: id(weight) for name, weight in network.named_parameters()}
    assert models.pipeline.transformer is network


def test_a_run_that_fails_leaves_nothing_behind(place: Path) -> None:
    file, _ = whole_file(place / "loras/mov/move/walk.safetensors", i2v_pipeline().transformer)
    state = load_file(file)
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    (before, _), _ = ran(image_to_video, models, clip_request(place), "transformer", "transformer_2")
    save(
        place / "loras/mov/move/fall.safetensors", state | {"transformer.blocks.9.attn1.to_q.diff": torch.zeros(24, 24)}
    )
    with pytest.raises(WeightsError, match=r"fall does not fit.*blocks\.9"):
        ran(image_to_video, models, clip_request(place, loras=["walk", "fall"]))
    assert adapters_of(models.pipeline.transformer).loaded() == set(), "all are matched before the first is loaded"
    (after, _), _ = ran(image_to_video, models, clip_request(place), "transformer", "transformer_2")
    assert torch.equal(before.made[0], after.made[0])


def test_the_manifest_says_which_files(place: Path) -> None:
    file, _ = whole_file(place / "loras/img/freckles.safetensors", toy_flux.transformer())
    run = jobs.run_here(picture_request(loras=["freckles:0.8"]))
    assert run.status().state == "succeeded", run.status().error
    (lora,) = run.manifest()["facts"]["loras"]
    assert (lora["name"], lora["kind"], lora["weight"]) == ("freckles", "img", 0.8)
    assert lora["files"]["both"]["name"] == file.name and len(lora["files"]["both"]["sha256"]) == 64
    assert str(place) not in json.dumps(run.manifest())


def test_a_lora_of_wan_2_1_is_applied_but_for_its_image_branch(place: Path) -> None:
    network = i2v_pipeline().transformer
    path = place / "loras/mov/move/walk.safetensors"
    file, walk = whole_file(path, network)
    names = [f"transformer.blocks.{block}.attn2.add_{part}_proj" for block in range(2) for part in "kv"]
    save(file, load_file(file) | tiny(*names, inputs=24))
    path.with_suffix(".json").write_text(json.dumps({"usual_weight": -0.5}))
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    experts = [merged(models.pipeline.transformer), merged(models.pipeline.transformer_2)]
    request = clip_request(place, loras=["walk"])
    calls, context = ran(image_to_video, models, request, "transformer", "transformer_2")
    for one, expert in zip(calls, experts, strict=True):
        one.assert_made_by([merged(expert, walk, weights=(-0.5,))] * len(one.made))
    log = (context.folder / "log.txt").read_text()
    assert "walk was trained for Wan2.1-I2V: 8 of its keys are for the image branch" in log
    assert "left out (4 k_img, 4 v_img)" in log
    (record,) = context.facts["loras"]
    assert record["left_out"] == {"k_img": 4, "v_img": 4}
    assert (record["high_weight"], record["low_weight"]) == (-0.5, -0.5), "where none is given, the usual one"


def test_a_lora_that_is_not_finite_is_refused_before_anything_is_computed(place: Path) -> None:
    path = place / "loras/mov/character/ann.safetensors"
    file, _ = whole_file(path, toys.s2v_transformer())
    state = load_file(file)
    key = next(key for key in state if "ffn" in key)
    save(file, state | {key: state[key] * float("nan")})
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    with pytest.raises(WeightsError, match=f"ann has NaN or infinite values in 1 of its {len(state)} keys: {key}"):
        ran(speech_to_video, models, talk_request(place, loras=["ann"]))
    assert adapters_of(models.pipeline.transformer).loaded() == set()
    assert not list(place.glob("**/*.mp4"))
