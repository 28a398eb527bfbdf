"""What `speed`, step caches and quantization save and cost: plans for `stages/speed.toml`, and a picture of it.

`calibrate` makes one exact clip and keeps what the networks return. An error in the flow of a step moves the latents by
that error times the change of sigma, and the moves of all steps add up: so the distance of any plan from the exact
clip is a quadratic form in the flows of the exact one, and no further pass is needed to compare plans of equally many
passes. What this leaves out is that later steps see latents that have moved: how many passes are needed is found by
making the clips.
"""

import math
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from wanavatar_lab import media
from wanavatar_lab.bench.watch import say
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import whole_file
from wanavatar_lab.memory.components import DENOISERS
from wanavatar_lab.metrics.evaluate import evaluate
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo
from wanavatar_lab.settings import CHECKOUT
from wanavatar_lab.stages import stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.speed import TABLE, SolverSteps
from wanavatar_lab.wan.step_cache import BOTH, NONE, PROMPT, StepCache, extrapolated

# how many times fewer passes each speed means; balanced keeps its clip nearer than that where both cannot be had
SPEEDS = {"balanced": 1.7, "fast": 3.0}
# the least PSNR to the exact clip in dB, and the most that Pearson's r of lips and loudness may lose; for balanced 1 dB
# and 0.005 more than is asked of other clips
NEAR = {"balanced": (36.0, 0.015), "fast": (30.0, 0.05)}
MODES: dict[str, dict[str, Any]] = {
    "exact": {},
    "balanced": {"speed": "balanced"},
    "fast": {"speed": "fast"},
    "TeaCache 0.15": {"use_teacache": True},
    "first block cache 0.05": {"step_cache": "first_block"},
    "FP8": {"quantization": "fp8"},
}
_BEAM = 24  # plans that are kept for each number of passes; of 8 steps the best of all are found
Values = NDArray[np.float64]


def sample_request(stage: str, profile: str, steps: int, frames: int, **values: Any) -> ImageToVideo | SpeechToVideo:
    """A request for one segment of `frames` frames from data/samples.

    Raises:
        LabError: the samples are not there, since the package runs without its repository.
    """
    samples = CHECKOUT / "data" / "samples"
    if not samples.is_dir():
        raise LabError(f"{samples} is not there. Run this from the repository, which has the samples.")
    common = {"profile": profile, "num_inference_steps": steps, "seed": 1, "image": str(samples / "avatar_woman.png")}
    if stage == "speech_to_video":
        voice = {"audio": str(samples / "english_female.wav"), "audio_start": 1.0, "audio_duration": frames / 16}
        return SpeechToVideo(**common, **voice, frames_per_segment=frames, num_segments=1, **values)
    prompt = "she tilts her head to the left"
    return ImageToVideo(**common, prompt=prompt, frame_num=frames + 1, segment_frames=frames + 1, **values)


def calibrate(request: ImageToVideo | SpeechToVideo, device: str, folder: Path, table: Path = TABLE) -> dict[str, Any]:
    """Find the plans of a request's stage, profile and number of steps, and put them into a table.

    Balanced is the plan of the fewest passes whose clip is near the exact one by `NEAR`, fast likewise, but no more
    passes than a third. About half a dozen clips are made.

    Args:
        request: exact, with guidance, and of one segment.
        device: cpu, cuda or cuda:<n>.
        folder: gets the clips.
        table: is changed, or made.

    Returns:
        By speed its plan, the computed passes, and the PSNR and lip r of its clip beside the exact clip's r.
    """
    models = stage_module(request.stage).load(PROFILES[request.profile], device)
    steps = SolverSteps.of(request, models.pipeline)
    count, flows = 2 * len(steps.sigmas), list[torch.Tensor]()
    networks = dict.fromkeys(steps.networks)
    hooks = [each.register_forward_hook(lambda _, __, made: flows.append(made[0].float().cpu())) for each in networks]
    try:
        exact, exact_r = _clip(request, models, folder / "exact")
    finally:
        for hook in hooks:
            hook.remove()
    if len(flows) != count:
        raise LabError(f"{len(flows)} passes for {count // 2} steps; calibrate one segment, with guidance above 1.")
    guidance = [request.guidance_scale] * len(steps.sigmas)
    if isinstance(request, ImageToVideo):
        guidance = [
            request.low_noise_guidance_scale() if each is models.pipeline.transformer_2 else request.guidance_scale
            for each in steps.networks
        ]
    rows = torch.stack([flow.flatten() for flow in flows])
    rows = torch.cat([rows[::2], rows[::2] - rows[1::2]])  # flows of the prompt, then differences of guidance
    plans = best_plans((rows @ rows.T / rows.shape[1]).double().numpy(), steps.sigmas, guidance, steps.networks)

    @cache
    def measured(passes: int) -> tuple[float, float | None]:
        say(f"A clip of {passes} of {count} passes, {plans[passes]} …")
        with StepCache(plans[passes], steps.sigmas).on(*networks):
            frames, r = _clip(request, models, folder / str(passes))
        return psnr_of(frames, exact), r

    def near(passes: int, speed: str) -> bool:
        (least, most_lost), (psnr, r) = NEAR[speed], measured(passes)
        return psnr >= least and (r is None or exact_r is None or r >= exact_r - most_lost)

    found = {}
    enough = count  # the plan of all passes is exact, and what is near enough for a speed is so for the next one
    for speed, factor in SPEEDS.items():
        most = max(int(count / factor), min(plans))
        too_few = min(plans) - 1
        # the first one that is tried has as many as the speed is named for
        tried = most if most < enough else (too_few + enough) // 2
        while enough - too_few > 1 + count // 20:
            too_few, enough = (too_few, tried) if near(tried, speed) else (tried, enough)
            tried = (too_few + enough) // 2
        passes = min(enough, most) if speed == "fast" else enough
        psnr, r = measured(passes)
        found[speed] = {"plan": plans[passes], "computed": passes, "psnr": round(psnr, 1), "lip_r": (r, exact_r)}
    _write_plans(table, request, {speed: str(each["plan"]) for speed, each in found.items()})
    return found


def _clip(request: ImageToVideo | SpeechToVideo, models: Any, folder: Path) -> tuple[Values, float | None]:
    """The frames of a request's clip, and Pearson's r of lips and loudness; None without a voice."""
    folder.mkdir()
    (artifact,) = stage_module(request.stage).run(request, models, StageContext(folder, request.seed))
    clip = folder / artifact.path
    frames = np.stack(list(media.read_frames(clip))).astype(np.float64)
    if not isinstance(request, SpeechToVideo):
        return frames, None
    # the clip is in no run's folder, which would say whose faces they are
    lips = evaluate(clip, faces=request.profile if PROFILES[request.profile].face_reader else "auto").lips
    return frames, None if lips is None else lips.r


def best_plans(
    gram: Values, sigmas: Sequence[float], guidance: Sequence[float], networks: Sequence[nn.Module]
) -> dict[int, str]:
    """The best plan for every number of computed passes, by the error that is predicted for the last latents.

    Args:
        gram: [2n, 2n], the mean products of the flows of n steps and, after them, of the differences of guidance.
        sigmas, guidance, networks: of each step.
    """
    count = len(sigmas)
    change = np.diff([*sigmas, 0.0])
    weight = np.concatenate([change, change * (np.array(guidance) - 1)])
    unit = np.eye(2 * count)

    def error(plan: str) -> float:
        """The distance of the last latents from those of the exact clip, squared."""
        moved = np.zeros(2 * count)
        for level, first in ((PROMPT, 0), (BOTH, count)):
            past: list[tuple[float, Values]] = []
            for step, digit in enumerate(plan):
                if step and networks[step] is not networks[step - 1]:
                    past = []
                row = unit[first + step]
                if digit >= level:
                    past = [*past[-1:], (sigmas[step], row)]
                else:
                    moved += weight[first + step] * (extrapolated(past, sigmas[step]) - row)
        return float(moved @ gram @ moved)

    found: dict[int, str] = {}
    fixed = {step for step in range(count) if step == 0 or networks[step] is not networks[step - 1]}
    beam = {BOTH * count: 0.0}
    for passes in range(2 * count, 0, -1):
        if not beam:
            break
        found[passes] = min(beam, key=lambda each: beam[each])
        lower = {
            plan[:step] + str(int(digit) - 1) + plan[step + 1 :]
            for plan in beam
            for step, digit in enumerate(plan)
            # the last step, which is the largest, always follows the prompt
            if step not in fixed and digit > (PROMPT if step + 1 == count else NONE)
        }
        errors = {each: error(each) for each in lower}
        beam = {each: errors[each] for each in sorted(errors, key=lambda each: errors[each])[:_BEAM]}
    return found


def _write_plans(table: Path, request: ImageToVideo | SpeechToVideo, plans: dict[str, str]) -> None:
    entries: dict[str, list[dict[str, Any]]] = tomllib.loads(table.read_text("utf-8")) if table.is_file() else {}
    entry = {"profile": request.profile, "steps": request.num_inference_steps, **plans}
    others = [
        each for each in entries.get(request.stage, []) if (each["profile"], each["steps"]) != tuple(entry.values())[:2]
    ]
    entries[request.stage] = sorted([*others, entry], key=lambda each: (each["profile"], each["steps"]))
    text = "# Written by python -m wanavatar_lab.bench calibrate; wan/step_cache.py says what a plan is.\n"
    for stage in sorted(entries):
        for each in entries[stage]:
            text += f"\n[[{stage}]]\n"
            text += "".join(
                f"{key} = {value if isinstance(value, int) else chr(34) + value + chr(34)}\n"
                for key, value in each.items()
            )
    with whole_file(table) as temporary:
        temporary.write_text(text, encoding="utf-8")


def measure_speed(
    stage: str, profile: str, steps: int, frames: int, device: str, folder: Path, modes: Sequence[str] = tuple(MODES)
) -> dict[str, Any]:
    """Make the same clip in each mode, and compare the files with that of the first one.

    Returns:
        The sizes, and `rows`: passes and computed ones, seconds with measuring, PSNR of the frames to the first mode's
        in dB (None for itself), and Pearson's r of lips and loudness (None for a clip without a voice).
    """
    module: Any = stage_module(stage)
    models = module.load(PROFILES[profile], device)
    figures: dict[str, Any] = {"bench": "speed", "stage": stage, "profile": profile, "steps": steps, "frames": frames}
    figures |= {"device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu", "rows": []}
    exact: Values | None = None
    for mode in modes:
        if stage == "image_to_video" and "step_cache" in MODES[mode]:
            continue
        say(f"{stage} at {steps} steps, {mode} …")
        request = sample_request(stage, profile, steps, frames, **MODES[mode])
        start = time.perf_counter()
        with computed_passes(models.pipeline) as computed:
            shown, lip_r = _clip(request, models, folder / mode.replace(" ", "_"))
        seconds = time.perf_counter() - start
        exact = shown if exact is None else exact
        psnr = None if exact is shown else round(psnr_of(shown, exact), 1)
        lip_r = lip_r and round(lip_r, 3)
        row = {"mode": mode, "passes": 2 * steps, "computed": computed["passes"], "psnr": psnr, "lip_r": lip_r}
        figures["rows"].append({**row, "seconds": round(seconds, 2)})
    return figures


@contextmanager
def computed_passes(pipeline: Any) -> Iterator[Counter[str]]:
    """Count the passes that a pipeline's denoising networks compute, by a layer that only those run."""
    computed: Counter[str] = Counter(passes=0)
    parts = [pipeline.components[name] for name in DENOISERS if name in pipeline.components]
    hooks = [part.blocks[-1].ffn.register_forward_hook(lambda *_: computed.update(["passes"])) for part in parts]
    try:
        yield computed
    finally:
        for hook in hooks:
            hook.remove()


def psnr_of(frames: Values, exact: Values) -> float:
    """The peak signal-to-noise ratio of 8-bit frames, in dB; infinite for equal ones."""
    error = float(np.square(frames - exact).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def draw_speed(measured: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw PSNR, and below it the change of lip r, against how many times fewer passes are computed.

    Args:
        measured: results of `measure_speed`.
        file: of a picture.
    """
    matplotlib.rcParams["svg.hashsalt"] = "speed"  # the same figures give the same file
    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    for each in measured:
        rows = [row for row in each["rows"] if row["psnr"] is not None]
        name = f"{each['stage'].replace('_', ' ')}, {each['profile']}, {each['steps']} steps"
        fewer = [row["passes"] / row["computed"] for row in rows]
        (line,) = axes[0].plot(fewer, [row["psnr"] for row in rows], "o", label=name)
        for row, x in zip(rows, fewer, strict=True):
            axes[0].annotate(row["mode"], (x, row["psnr"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
        if each["rows"][0]["lip_r"] is not None:
            lost = [row["lip_r"] - each["rows"][0]["lip_r"] for row in rows]
            axes[1].plot(fewer, lost, "o", color=line.get_color())
    axes[0].axhline(35, linewidth=0.8, linestyle=":")
    axes[1].axhline(-0.02, linewidth=0.8, linestyle=":")
    axes[0].set_ylabel("PSNR to exact (dB)")
    axes[1].set_ylabel("change of lip r")
    axes[1].set_xlabel("times fewer passes than exact")
    axes[0].legend(fontsize=8)
    with whole_file(file) as temporary:
        figure.savefig(temporary, metadata={"Date": None} if file.suffix == ".svg" else None)
