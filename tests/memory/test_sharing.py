"""How many GPUs share a run, and how long that takes by the cost model."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.memory.machines import GB, machine
from wanavatar_lab import cli
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Machine, Workload, expected_seconds, usual_workload, workload_of
from wanavatar_lab.memory.components import PUBLISHED
from wanavatar_lab.memory.machine import Gpu
from wanavatar_lab.memory.sharing import Sharing, choose_sharing, layout_of, leaves_out_passes
from wanavatar_lab.requests import ImageToVideo, RequestError
from wanavatar_lab.runs.ranks import ALONE, Layout
from wanavatar_lab.settings import read_settings

REPOSITORY = Path(__file__).resolve().parents[2]


def named(gpus: int, name: str = "H200", host_gb: float = 2000) -> Machine:
    where = machine(141, gpus, host_gb)
    return Machine(tuple(dataclasses.replace(gpu, name=name) for gpu in where.gpus), where.host_free)


def sharing(where: Machine, asked: str = "auto", stage: str = "speech_to_video", *, predicted: bool = False) -> Sharing:
    return choose_sharing(usual_workload(stage, "full"), PUBLISHED[stage], where, asked, predicted=predicted)


@pytest.mark.parametrize(
    ("passes", "world", "predicted", "layout"),
    [
        (2, 1, False, Layout(1, 1)),
        (2, 2, False, Layout(2, 1)),
        (2, 3, False, Layout(1, 3)),
        (2, 8, False, Layout(2, 4)),
        (1, 2, False, Layout(1, 2)),
        # of a step whose guidance is predicted one process would have nothing to do
        (2, 2, True, Layout(1, 2)),
    ],
)
def test_passes_of_guidance_are_shared_before_the_sequence(
    passes: int, world: int, predicted: bool, layout: Layout
) -> None:
    assert layout_of(Workload("speech_to_video", 832, 480, 80, 25, passes), world, predicted=predicted) == layout


@pytest.mark.parametrize(
    ("high", "low", "layout"),
    [
        (5.0, None, Layout(2, 1)),
        (5.0, 3.0, Layout(2, 1)),
        (1.0, None, Layout(1, 2)),
        # in the steps of one expert there is a single pass: the process of the other pass would get no result
        (5.0, 1.0, Layout(1, 2)),
        (1.0, 5.0, Layout(1, 2)),
    ],
)
def test_passes_are_shared_only_where_both_experts_are_guided(high: float, low: float | None, layout: Layout) -> None:
    request = ImageToVideo(image="a.png", guidance_scale=high, guidance_scale_2=low)
    assert layout_of(workload_of(request, (480, 832)), 2, predicted=leaves_out_passes(request)) == layout


def test_each_layout_takes_as_long_as_its_slowest_part() -> None:
    work = usual_workload("speech_to_video", "full", "480x832")
    parts = [part for part in PUBLISHED["speech_to_video"] if part.name == "transformer"]

    def times(layout: Layout) -> float:
        alone, shared = (expected_seconds(work, parts, named(8), layout=each) for each in (Layout(), layout))
        assert alone is not None and shared is not None
        return alone / shared

    assert times(Layout(2, 1)) == pytest.approx(2.0)
    assert 1.7 < times(Layout(1, 2)) < 2.0
    assert 2.5 < times(Layout(1, 3)) < 3.0
    assert times(Layout(2, 2)) == pytest.approx(2 * times(Layout(1, 2)))


def test_a_step_without_guidance_gains_nothing_from_a_second_group() -> None:
    work = dataclasses.replace(usual_workload("speech_to_video", "full"), passes=1)
    parts = PUBLISHED["speech_to_video"]
    assert expected_seconds(work, parts, named(2), layout=Layout(2, 1)) == expected_seconds(work, parts, named(2))


def test_all_gpus_that_make_a_run_faster_are_used() -> None:
    assert sharing(named(1)).layout == Layout()
    found = sharing(named(8))
    assert found.layout == Layout(2, 4) and found.reason == "all of them make it faster"
    assert (
        list(found.seconds) == list(range(1, 9)) and sorted(found.seconds.values(), reverse=True)[0] == found.seconds[1]
    )
    assert sharing(named(2), predicted=True).layout == Layout(1, 2)


def test_what_limits_them_is_said() -> None:
    first, second = named(1).gpus[0], named(1, "4090").gpus[0]
    found = sharing(Machine((first, second), 2000 * GB))
    assert (found.layout.world, found.reason) == (1, "the other 1 of the machine are of another model")
    found = sharing(named(4, host_gb=100))  # 46 GB of weights each
    assert found.layout.world == 2 and "main memory" in found.reason
    found = sharing(named(4), stage="text_to_image")
    assert found.layout.world == 1 and "shorter" in found.reason
    assert sharing(named(4), stage="upscale").layout.world == 1


def test_a_cpu_is_shared_when_asked_only() -> None:
    cpu = Machine((), 64 * GB)
    assert sharing(cpu).layout == Layout()
    assert sharing(cpu, "3").layout == Layout(1, 3)


def test_more_gpus_than_there_are_cannot_be_asked_for() -> None:
    with pytest.raises(RequestError, match=r"gpus: must be auto, or a number from 1 to 2, .*'3'"):
        sharing(named(2), "3")


def test_the_settings_say_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings({}).gpus == "auto"
    assert read_settings({"WANAVATAR_GPUS": "1"}).gpus == "1"
    assert read_settings({"DISABLE_SP": "1"}).gpus == "1"
    assert read_settings({"DISABLE_SP": "1", "WANAVATAR_GPUS": "2"}).gpus == "2"
    with pytest.raises(LabError, match="WANAVATAR_GPUS is '0'"):
        read_settings({"WANAVATAR_GPUS": "0"})


def test_the_plan_says_how_many_gpus_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    words = "plan speech-to-video --gpu H200 --gpu-memory 141 --host-memory 512 --gpus 4".split()
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "gpus      4, guidance 2 x sequence 2: all of them make it faster" in said
    assert "by number of GPUs, computed: 1: " in said and "in all" in said


def test_the_plan_of_many_gpus_is_short_enough_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    words = "plan speech-to-video --gpu H200 --gpu-memory 141 --host-memory 8000 --gpus 64".split()
    assert cli.main(words) == 0
    line = capsys.readouterr().out.partition("computed: ")[2].splitlines()[0]
    numbers = [int(part.partition(":")[0]) for part in line.split(", ")]
    assert {*range(1, 9), 16, 32, 64} <= set(numbers) and len(numbers) <= 12, "one more is the number that is used"


@pytest.mark.parametrize("size", ["480", "720"])
def test_the_cost_model_is_within_a_tenth_of_what_two_gpus_took(size: str) -> None:
    measured = json.loads((REPOSITORY / f"docs/measured/ranks_{size}.json").read_text(encoding="utf-8"))
    width, height, frames = map(int, measured["pixels"].split("x"))
    load = Workload("speech_to_video", width, height, frames, passes=2)
    network = [component for component in PUBLISHED["speech_to_video"] if component.name == "transformer"]
    gpu = Machine((Gpu(measured["device"], 0, 0),), None)
    layouts = {str(layout): layout for layout in (ALONE, Layout(1, 2), Layout(2, 1))}
    assert [row["shared"] for row in measured["rows"]] == list(layouts)
    alone = expected_seconds(load, network, gpu)
    for row in measured["rows"]:
        seconds = expected_seconds(load, network, gpu, layout=layouts[row["shared"]])
        assert seconds == pytest.approx(row["step_s"], rel=0.1)
        assert alone is not None and seconds is not None
        assert alone / seconds == pytest.approx(row["computed_times"], abs=1e-3), "as the table says"
