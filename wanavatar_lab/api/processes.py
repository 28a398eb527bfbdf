"""A process beside the service, which looks into files and submits runs.

    python -P -m wanavatar_lab.api.processes [--checks]

A line of JSON in, `{"call": name, ...arguments}`, a line of JSON out. So what a hostile file does to a decoder happens
in a process that holds nothing, can be killed, and answers plain values; and the service goes on answering meanwhile.
With --checks it may take less memory than others; what it starts would inherit that, so runs are submitted by one
without. Both yield the processors to the service, and so does the worker that computes the runs which it submits.
"""

import asyncio
import json
import os
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import DiskFull, LabError, MediaError, RequestError

# bytes of address space: the largest picture that the settings allow takes 400 MB, some copies and the libraries more
MOST_MEMORY = 6 * 1024**3
NICENESS, NICENESS_OF_CHECKS = 5, 10  # so that polls are answered while runs compute and files are looked into
_SAID = {kind.__name__: kind for kind in (DiskFull, MediaError, LabError)}


class Processes:
    """Up to `count` such processes, started when they are needed.

    Args:
        seconds: that a call may take; its process is killed then.
        checks: whether they look into files, or submit runs.
    """

    def __init__(self, count: int, seconds: float, *, checks: bool) -> None:
        self._seconds, self._checks = seconds, checks
        self._free = asyncio.Semaphore(count)
        self._idle: list[asyncio.subprocess.Process] = []
        self._closed = False

    async def call(self, name: str, **arguments: Any) -> Any:
        """What the function of that name returns.

        Raises:
            LabError: it says why, or took too long, or its process died.
        """
        async with self._free:
            # one that has died since, as where memory ran out, says nothing of this call
            self._idle = [idle for idle in self._idle if idle.returncode is None]
            child = self._idle.pop() if self._idle else await self._start()
            try:
                assert child.stdin is not None and child.stdout is not None
                async with asyncio.timeout(self._seconds):
                    child.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
                    await child.stdin.drain()
                    line = await child.stdout.readline()
                if not line:
                    raise ConnectionError
            except BaseException as error:
                if child.returncode is None:
                    child.kill()
                await child.wait()
                if isinstance(error, TimeoutError):
                    work = "look into the file" if self._checks else "submit the run"
                    raise MediaError(f"It takes more than {self._seconds:g} s to {work}.") from None
                if isinstance(error, ConnectionError | ValueError):
                    if self._checks:
                        raise MediaError("The file ends the process that looks into it. Export it again.") from None
                    raise LabError("The process that submits runs has ended; the service's output says why.") from None
                raise
            self._idle.append(child)
            if self._closed:
                child.kill()
        answer = json.loads(line)
        if "problems" in answer:
            raise RequestError([(field, message) for field, message in answer["problems"]])
        if "error" in answer:
            raise _SAID.get(answer["kind"], LabError)(answer["error"])
        return answer["value"]

    async def close(self) -> None:
        """End them."""
        self._closed = True
        for child in self._idle:
            if child.returncode is None:
                child.kill()
            await child.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        package = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        # -P: the folder that the service is started in may hold a file that is named like a module of ours
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "wanavatar_lab.api.processes", *(["--checks"] if self._checks else [])),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": paths},
            limit=1024**2,
            start_new_session=True,  # Ctrl-C in a terminal is for the service, which ends them
        )


def probe(path: str) -> dict[str, Any]:
    """What is in a file."""
    from wanavatar_lab import media

    return asdict(media.probe(path))


def sizes(paths: list[str]) -> list[list[int] | None]:
    """Width and height of pictures, from their headers, upright; None for one that cannot be read."""
    from PIL import Image

    from wanavatar_lab.media.pictures import UPRIGHT

    found: list[list[int] | None] = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                turned = picture.getexif().get(0x0112, 1) >= min(key for key in UPRIGHT if key > 4)
                found.append(list(reversed(picture.size)) if turned else list(picture.size))
        except Exception:  # noqa: BLE001  of hostile files Pillow raises anything; a list has no size for one
            found.append(None)
    return found


def submit(request: dict[str, Any], area: int | None) -> str:
    """Submit a request as JSON, and return the run's id.

    Args:
        area: pixels of a clip at most, in the shape of its picture or of the video to dub; None leaves the resolution
            as it is.
    """
    from wanavatar_lab import jobs
    from wanavatar_lab.media import read_picture
    from wanavatar_lab.profiles import SIZE_MULTIPLE
    from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo
    from wanavatar_lab.requests.custom_stages import register_extra_stages
    from wanavatar_lab.requests.sizes import fit_into

    register_extra_stages()
    made = Request.from_json(request)
    if area is not None and isinstance(made, SpeechToVideo | ImageToVideo):
        shape = made.source_size() if isinstance(made, SpeechToVideo) else read_picture(made.image).size
        multiple = made.the_profile().size_multiples.get(made.stage, SIZE_MULTIPLE)
        width, height = fit_into(area, shape, multiple)
        made = made.changed(resolution=f"{width}x{height}")
    return jobs.submit(made).id


def extract_audio(path: str, out: str) -> None:
    """Write the sound of a recording as WAV."""
    from wanavatar_lab import tools

    tools.extract_audio(path, out)


def extract_frame(path: str, out: str) -> list[int]:
    """Write the first frame of a video as PNG; its width and height."""
    from wanavatar_lab import tools

    made = tools.extract_frame(path, out)
    return [made.width or 0, made.height or 0]


_CALLS: dict[str, Callable[..., Any]] = {
    each.__name__: each for each in (probe, sizes, submit, extract_audio, extract_frame)
}


def _answer(line: str) -> dict[str, Any]:
    asked = json.loads(line)
    try:
        return {"value": _CALLS[asked.pop("call")](**asked)}
    except RequestError as error:
        return {"problems": error.problems}
    except LabError as error:
        return {"kind": type(error).__name__, "error": str(error)}
    except MemoryError:
        return {"kind": "MediaError", "error": "The file takes more memory than the service allows. Make it smaller."}


def main(words: list[str]) -> None:
    """Answer until standard input ends."""
    os.nice(NICENESS_OF_CHECKS if "--checks" in words else NICENESS)
    if "--checks" in words:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(hard, MOST_MEMORY)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    # whatever libraries print must not get among the answers
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(_answer(line)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
