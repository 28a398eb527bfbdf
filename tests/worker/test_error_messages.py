"""What a failed run says: the cause that a user can do something about, and not what it was taken for."""

from pathlib import Path

import pytest

from tests.stages_for_tests import AcceleratorError, OutOfMemoryError
from wanavatar_lab.errors import LabError, MediaError, WeightsError, has_broken_gpu
from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.error_messages import LONGEST, explain

RUN = Run(Path("runs/20260101-120000-ab12-relax"))


def raised_from(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (RuntimeError("can't start new thread"), "The system did not allow another thread. Raise the limits"),
        (MemoryError(), "The machine ran out of memory"),
        (OSError(12, "Cannot allocate memory"), "The machine ran out of memory"),
        (OutOfMemoryError("Tried to allocate 20.00 GiB"), "The GPU ran out of memory"),
        (ImportError("libopenblas.so: failed to map segment from shared object"), "The machine ran out of memory"),
        (OSError(24, "Too many open files"), "The system did not allow another open file. Raise the limit"),
        (OSError(28, "No space left on device"), "There is no room for the result"),
        (ValueError("invalid header"), "The file is damaged"),
    ],
)
@pytest.mark.parametrize("kind", [WeightsError, MediaError])
def test_a_file_is_not_called_damaged_for_lack_of_something_else(
    kind: type[LabError], cause: BaseException, text: str
) -> None:
    assert explain(raised_from(kind("The file is damaged. Download it again."), cause), RUN).startswith(text)


def test_a_stages_own_message_about_memory_stays() -> None:
    error = raised_from(LabError("Choose a smaller tile."), MemoryError())
    assert explain(error, RUN) == "Choose a smaller tile."


def test_only_a_broken_gpu_takes_a_new_process() -> None:
    broken = AcceleratorError("CUDA error: an illegal memory access was encountered")
    assert has_broken_gpu(raised_from(RuntimeError("decoding failed"), broken))
    assert not has_broken_gpu(OutOfMemoryError("CUDA error: out of memory"))


def test_a_long_message_is_cut() -> None:
    assert len(explain(LabError("x" * 2 * LONGEST), RUN)) == LONGEST


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        (
            "speech_to_video",
            "Choose a smaller resolution or fewer frames per segment, set offload to model, group or fp8, or",
        ),
        ("text_to_speech", "Choose a shorter text, or end other programs that use the GPU; then"),
        ("text_to_image", "Choose a smaller picture, or end"),
        ("upscale", "Choose a smaller tile, or end"),
        ("relax", "End other programs that use the GPU; then run it again."),
    ],
)
def test_the_advice_is_what_a_stage_has(stage: str, advice: str) -> None:
    said = explain(OutOfMemoryError(""), Run(Path(f"runs/20260101-120000-ab12-{stage}")))
    assert said.startswith(f"The GPU ran out of memory. {advice}")
