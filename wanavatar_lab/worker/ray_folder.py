"""A run's folder on a node that does not see the runs folder: sent there, followed while the run is executed, fetched.

What the run makes appears here as if it were executed here: the status and the preview whole or not at all, the log as
it grows, artifacts before the last status.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from wanavatar_lab.files import files_below, printable, remove, report_write_errors, whole_file
from wanavatar_lab.runs import reserved_space
from wanavatar_lab.runs.finish import remove_scratch
from wanavatar_lab.runs.inputs import FOLDER as INPUTS
from wanavatar_lab.runs.inputs import check_unchanged, read_inputs
from wanavatar_lab.runs.manifest import relocate
from wanavatar_lab.runs.run import PREVIEW, Run
from wanavatar_lab.runs.status import PARTIAL, Status

_PART = 8 * 1024**2  # bytes of a file in one call
# what the dispatcher writes, or what comes last
OWN = {"request.json", "status.json", "manifest.json", "log.txt", "cancel", "marks.json", PREVIEW}
Files = dict[str, tuple[int, int, int]]  # name to what changes when it is written to


class RemoteFolder:
    """The folder of a run, here and on a node.

    Args:
        run: here.
        place: the runs folder there.
        call: calls a method of the node's actor (`worker/ray_node.py`) with the run's id and more.
    """

    def __init__(self, run: Run, place: str, call: Callable[..., Any]) -> None:
        self._run, self._call = run, call
        self._there = str(Path(place) / run.id)
        self.seen: Files = {}
        self._log = 0  # bytes of the log there that are here
        self._unwritten = b""  # of the log, after the last end of a line: a path may go on in the next part
        self._cancelled = False  # there

    def send(self) -> None:
        """Send the folder with its inputs, and those of its input files that were too large to be copied into it.

        Raises:
            RequestError: such a file has changed since.
        """
        folder, request = self._run.folder, self._run.request()
        check_unchanged(request, folder)
        self._call("drop")
        inputs = read_inputs(folder)
        for path in files_below(folder):
            name = path.relative_to(folder).as_posix()
            if name not in ("log.txt", f"{INPUTS}/inputs.json"):
                self._send(path, name)
        for field, path in request.input_files().items():
            if field in inputs and not inputs[field].copied:
                self._send(path, f"{INPUTS}/{field}/{path.name}")
        if inputs:
            kept = {field: one.model_copy(update={"copied": True}).model_dump() for field, one in inputs.items()}
            self._call("write", f"{INPUTS}/inputs.json", json.dumps(kept).encode(), 0)
        self._call("write", "log.txt", b"", 0)

    def follow(self, files: Files) -> None:
        """Bring what has changed: log, preview and status, and take a cancellation there."""
        if not self._cancelled and self._run.cancel_requested():
            self._cancelled = True
            self._call("write", "cancel", b"", 0)
        before, self.seen = self.seen, files
        if files.get("log.txt") != before.get("log.txt"):
            self._fetch_log()
        if files.get(PREVIEW) != before.get(PREVIEW) and (picture := self._read(PREVIEW)):
            with whole_file(self._run.folder / PREVIEW, durable=False) as temporary:
                temporary.write_bytes(picture)
        if files.get("status.json") != before.get("status.json"):
            status = self._read_status()
            if status is not None and not status.ended:  # the last one comes when all else is here
                self._run.write_status(status, sync=False)

    def finish(self) -> None:
        """Bring all that the run has made and, if it has ended, its last status; then remove the folder there.

        Of a run whose worker died, what was finished of a video comes, under the name that `finish_run` looks for.

        Raises:
            DiskFull: there is no room here.
        """
        status = self._read_status()
        ended = status is not None and status.ended
        for name in self._call("names"):
            hidden = any(part.startswith(".") for part in name.split("/"))
            if name not in OWN and (not hidden or (not ended and name.endswith(f".{PARTIAL}.mp4"))):
                self._fetch(name)
        self._fetch_log(last=True)
        if status is not None and ended:
            folder = self._run.folder
            remove_scratch(folder)
            manifest = self._read("manifest.json")
            if manifest:
                made = relocate(json.loads(self._placed(manifest)), self._run.read_json("request.json"), folder.parent)
                reserved_space.write_last(
                    folder / "manifest.json", json.dumps(made, indent=2, ensure_ascii=False) + "\n"
                )
            reserved_space.write_last(folder / "status.json", status.model_dump_json(indent=2) + "\n")
        self._call("drop")

    def _send(self, path: Path, name: str) -> None:
        with open(path, "rb") as file:
            offset = 0
            while (data := file.read(_PART)) or not offset:
                self._call("write", name, data, offset)
                offset += len(data)
                if not data:
                    break

    def _parts(self, name: str, offset: int = 0) -> Iterable[bytes]:
        while data := self._call("read", name, offset, _PART):
            yield data
            offset += len(data)

    def _read(self, name: str) -> bytes:
        """A small file, in one call: between two it might be replaced. Empty if it is gone."""
        data: bytes = self._call("read", name, 0, -1)
        return data

    def _fetch(self, name: str) -> None:
        path = self._run.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with report_write_errors(path), whole_file(path) as temporary, open(temporary, "wb") as file:
            file.writelines(self._parts(name))

    def _read_status(self) -> Status | None:
        data = self._read("status.json")
        return Status.model_validate_json(self._placed(data)) if data else None

    def _fetch_log(self, *, last: bool = False) -> None:
        path = self._run.folder / "log.txt"
        for data in self._parts("log.txt", self._log):
            self._log += len(data)
            self._unwritten += data
        end = len(self._unwritten) if last else max(map(self._unwritten.rfind, (b"\n", b"\r"))) + 1
        whole, self._unwritten = self._unwritten[:end], self._unwritten[end:]
        if whole:
            here = printable(str(self._run.folder)).encode()
            with report_write_errors(path), open(path, "ab") as file:
                file.write(whole.replace(self._there.encode(), here))

    def _placed(self, data: bytes) -> str:
        """JSON with the paths of the folder here in place of those there."""
        here = json.dumps(printable(str(self._run.folder)), ensure_ascii=False)[1:-1]
        return data.decode("utf-8").replace(json.dumps(self._there, ensure_ascii=False)[1:-1], here)


def clear(folder: Path) -> None:
    """Remove from a run's folder what an execution that was lost has made, so that it can begin again."""
    keep = OWN - {PREVIEW} | {".settings.json"}
    for path in files_below(folder, regular=False):
        name = path.relative_to(folder).as_posix()
        if name not in keep and not name.startswith(f"{INPUTS}/") and not reserved_space.is_reserved_space(path):
            remove(path)
    (folder / "manifest.json").unlink(missing_ok=True)
