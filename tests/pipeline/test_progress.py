"""The time that a chain will still take, against a clock that the test turns."""

import subprocess
import sys

import pytest

from wanavatar_lab.pipeline import Progress, Typical
from wanavatar_lab.pipeline.progress import TYPICAL, Forecast, on_progress
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.runs.status import Status

STAGES = [("draw", Typical(10, 20, 0)), ("move", Typical(0, 40, 30))]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def running(fraction: float = 0.0) -> Status:
    return Status(state="running", phase="denoise", step=round(fraction * 8), steps=8, fraction=fraction)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forecast(clock: Clock) -> Forecast:
    return Forecast(STAGES, clock)


def test_at_first_it_says_what_is_typical(clock: Clock, forecast: Forecast) -> None:
    assert forecast.progress(0, Status()).seconds_left == 100
    clock.now += 4
    assert forecast.progress(0, running()).seconds_left == 96


def test_the_first_steps_show_how_fast_the_machine_is(clock: Clock, forecast: Forecast) -> None:
    clock.now += 40  # twice what is typical for loading and half of the steps
    assert forecast.progress(0, running(0.5)).seconds_left == pytest.approx(160)
    clock.now += 5
    assert forecast.progress(0, running(0.5)).seconds_left == pytest.approx(155)


def test_between_two_steps_it_does_not_fall_below_what_comes_behind(clock: Clock, forecast: Forecast) -> None:
    clock.now += 29
    forecast.progress(0, running(0.95))
    clock.now += 1000
    assert forecast.progress(0, running(0.95)).seconds_left == pytest.approx(70)


def test_what_was_measured_counts_for_the_next_link(clock: Clock, forecast: Forecast) -> None:
    clock.now += 15
    done = forecast.progress(0, Status(state="succeeded", fraction=1.0))
    assert done.seconds == 15
    assert done.seconds_left == pytest.approx(35)
    assert forecast.progress(1, Status()).seconds_left == pytest.approx(35)
    clock.now += 20
    assert forecast.progress(1, running(0.99)).seconds == 20


def test_work_after_the_last_step_is_foreseen(clock: Clock, forecast: Forecast) -> None:
    clock.now += 30
    forecast.progress(0, Status(state="succeeded", fraction=1.0))
    clock.now += 40
    assert forecast.progress(1, running(1.0)).seconds_left == pytest.approx(30)
    clock.now += 30
    assert forecast.progress(1, Status(state="succeeded", fraction=1.0)).seconds_left == 0


def test_every_profile_has_its_typical_times() -> None:
    assert set(TYPICAL) == set(PROFILES)
    for name, profile in PROFILES.items():
        assert set(TYPICAL[name]) == set(profile.locations)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status(queue_place=1), "draw (1 of 2): starting; about 7 s left"),
        (
            Status(queue_place=3, message="2 runs ahead"),
            "draw (1 of 2): 2 runs ahead; about 7 s left",
        ),
        (Status(state="running", phase="load", message="load"), "draw (1 of 2): load; about 7 s left"),
        (running(0.5), "draw (1 of 2): denoise, step 4 of 8; about 7 s left"),
        (
            running(0.5).model_copy(update={"segment": 2, "segments": 3}),
            "draw (1 of 2): denoise, step 4 of 8 of segment 2 of 3; about 7 s left",
        ),
        (Status(state="succeeded"), "draw (1 of 2): done in 5 s; about 7 s left"),
    ],
)
def test_the_line(status: Status, text: str) -> None:
    assert str(Progress("draw", 1, 2, status, 5.4, 7.2)) == text


def test_after_the_last_link_no_time_is_left_to_tell() -> None:
    assert str(Progress("move", 2, 2, Status(state="succeeded"), 5.4, 0.0)) == "move (2 of 2): done in 5 s"


def test_a_log_gets_few_lines() -> None:
    lines: list[str] = []
    show = on_progress(lines.append)
    for step in range(1001):
        show(Progress("draw", 1, 2, running(step / 1001), step, 0.0))
    show(Progress("draw", 1, 2, Status(state="succeeded", fraction=1.0), 1001, 0.0))
    assert len(lines) == 6
    assert lines[-1] == "draw (1 of 2): done in 1001 s; about 0 s left"


def test_no_torch_is_imported() -> None:
    code = "import sys; import wanavatar_lab.pipeline; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
