"""Media files of every format, odd and damaged, against what FFmpeg and Pillow alone make of them.

A child process (`read_files`) reads the files one after another. None may crash it or keep it for more than five
seconds of processor time; what FFmpeg decodes is read as far, or the loss is said; a refusal has a reason and a remedy.
"""

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.media import read_files
from tests.media.damage import KINDS, damaged_files
from tests.media.odd_files import odd_files, plain_files

ROOT = Path(__file__).resolve().parents[2]
CPU_SECONDS = 5.0  # for one way of reading one file, all threads together
IDLE_SECONDS = 60.0  # for a whole file, of a process that waits for something; a busy machine takes less
READS = ("look", "hear", "draw", "watch", "sample", "see")
# what FFmpeg decodes and the product refuses for the network's sake
LIMITS = re.compile(r"Hz; it must be|\d channels|not numbers|limit is|longer than")
REMEDY = re.compile(r"\b(export|give|copy|check|save|choose|scale|cut|ask|raise)\b", re.IGNORECASE)
PADDING = 0.26  # seconds of the last frames of AAC at 16 kHz that an MP4 declares to be no sound
LEAST = 0.05  # seconds; the beginning of a frame that was cut is noise

Results = dict[str, Any]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return plain_files(tmp_path_factory.mktemp("plain"))


def read_in_child(files: Sequence[Path], script: str = read_files.__file__) -> Iterator[tuple[Path, Results]]:
    """What became of each file, read by a process that is started anew after a crash or a file that takes too long."""
    waiting = list(files)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    while waiting:
        child = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert child.stdin and child.stdout
        with child:
            while waiting:
                path = waiting.pop(0)
                print(path, file=child.stdin, flush=True)
                answer = _answer(child)
                if isinstance(answer, str):
                    child.kill()
                    yield path, {"process": answer}
                    break
                yield path, answer
            else:
                child.stdin.close()


def _answer(child: "subprocess.Popen[str]") -> Results | str:
    """The child's answer, or how it ended without one."""
    assert child.stdout
    process, begun, text = psutil.Process(child.pid), time.monotonic(), b""
    used = sum(process.cpu_times()[:2])
    while not text.endswith(b"\n"):
        if select.select([child.stdout], [], [], 0.1)[0]:
            piece = os.read(child.stdout.fileno(), 1 << 16)
            if not piece:
                return f"crashed with {child.wait()}"
            text += piece
        elif sum(process.cpu_times()[:2]) - used > CPU_SECONDS * (len(READS) + 2):
            return "is busy for ever"
        elif time.monotonic() - begun > IDLE_SECONDS:
            return "hangs"
    answer: Results = json.loads(text)
    return answer


def problems(path: Path, results: Results) -> list[str]:
    """What is wrong with how a file was read."""
    if "process" in results:
        return [results["process"]]
    found, played, shown = [], results["played"], results["shown"]

    def refused(read: str) -> bool:
        return results[read]["end"] == "refused" and not LIMITS.search(results[read]["why"])

    for read in READS:
        result = results[read]
        if result["end"] not in ("read", "refused"):
            found.append(f"{read}: {result['end']}")
        if result["end"] == "refused" and (str(path) not in result["why"] or not REMEDY.search(result["why"])):
            found.append(f"{read}: no reason or remedy in {result['why']!r}")
        if result["cpu"] > CPU_SECONDS:
            found.append(f"{read}: took {result['cpu']:.1f} s")
    look, hear, watch = results["look"], results["hear"], results["watch"]
    said = look.get("missing") or hear.get("missing")
    if shown["whole"] and refused("see"):
        found.append(f"Pillow shows it: {results['see']['why']}")
    is_picture = look.get("kind") == "picture" or results["see"]["end"] == "read" or _is_still(played["format"] or "")
    if is_picture:
        return found
    if played["frames"]:
        if refused("watch"):
            found.append(f"FFmpeg plays {played['frames']} frames: {watch['why']}")
        elif watch.get("frames", played["frames"]) < played["frames"] and not said:
            found.append(f"{watch['frames']} of {played['frames']} frames, without a word")
        elif watch.get("frames", 0) > played["frames"]:
            found.append(f"{watch['frames']} frames, and FFmpeg has {played['frames']}")
    if played["seconds"] > LEAST:
        slack = PADDING if "mp4" in played["format"] else LEAST
        if refused("hear"):
            found.append(f"FFmpeg plays {played['seconds']:.2f} s: {hear['why']}")
        elif hear.get("seconds", played["seconds"]) < played["seconds"] - slack and not said:
            found.append(f"{hear['seconds']:.2f} of {played['seconds']:.2f} s, without a word")
    if (played["frames"] or played["seconds"] > LEAST) and refused("look"):
        found.append(f"FFmpeg plays it: {look['why']}")
    return found


def _is_still(kind: str) -> bool:
    return kind.endswith("_pipe") or kind in ("image2", "gif", "apng")


def check(files: Sequence[Path]) -> dict[Path, Results]:
    results = dict(read_in_child(files))
    wrong = {path.name: found for path, result in results.items() if (found := problems(path, result))}
    assert not wrong, f"{len(wrong)} of {len(files)}: {json.dumps(wrong, indent=1, ensure_ascii=False)[:6_000]}"
    assert set(results) == set(files)
    return results


def test_odd_files_are_read_as_whole_as_ffmpeg_and_browsers_have_them(plain: list[Path], tmp_path: Path) -> None:
    files = [*plain, *odd_files(tmp_path, plain[0].parent)]
    assert len(files) >= 300
    for path, result in check(files).items():
        assert result["look"]["end"] == "read", (path.name, result["look"])
        played = result["played"]
        if result["look"]["kind"] == "picture" or _is_still(played["format"]):
            assert result["see"]["end"] == "read", (path.name, result["see"])
        elif played["frames"]:  # where two are joined, the last frame of the first looks cut
            assert result["watch"]["frames"] == result["look"]["frames"] == played["frames"], path.name


def damaged(plain: list[Path], folder: Path, rounds: int) -> None:
    files = damaged_files(folder, plain, rounds)
    assert len(files) == rounds * len(plain) * len(KINDS)
    outcomes = [result[read]["end"] for result in check(files).values() for read in READS]
    # the damage is neither so light nor so heavy that only one outcome is ever seen
    assert min(outcomes.count("read"), outcomes.count("refused")) > len(files) // 2


def test_damaged_files_are_read_as_far_as_they_go_or_refused_in_words(plain: list[Path], tmp_path: Path) -> None:
    damaged(plain, tmp_path, 1)


@pytest.mark.slow
def test_many_damaged_files_are_read_as_far_as_they_go_or_refused_in_words(plain: list[Path], tmp_path: Path) -> None:
    damaged(plain, tmp_path, 8)


def test_the_watchdog_sees_a_crash_and_a_file_that_takes_too_long(
    plain: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, script = sys.modules[__name__], tmp_path / "child.py"
    for name, rest, seen in (
        ("crash", "import os; os.abort()", "crashed with -6"),
        ("wait", "import time; time.sleep(60)", "hangs"),
        ("loop", "while True: pass", "is busy for ever"),
    ):
        monkeypatch.setattr(module, "CPU_SECONDS", 0.05 if name == "loop" else 5.0)
        monkeypatch.setattr(module, "IDLE_SECONDS", 0.5 if name == "wait" else 60.0)
        script.write_text(f"input()\nprint('{{}}', flush=True)\ninput()\n{rest}\n")
        assert list(dict(read_in_child(plain[:2], str(script))).values())[1] == {"process": seen}, name
