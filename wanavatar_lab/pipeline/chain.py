"""A chain that a process of its own submits, link by link, so that it goes on when its client has gone.

    chain = Chain.start(links)
    made = await chain.follow(show)              # here, or from any process:
    made = await Chain.unseen()[-1].follow(show)

A folder of the queue has the links, the id of each run, and what was refused. The process,
`python -m wanavatar_lab.pipeline.chain FOLDER`, holds a lock in it: where it dies, whoever follows says so.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from wanavatar_lab import jobs, locks
from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.files import entries, read_file, remove_if_possible, report_write_errors, write_json
from wanavatar_lab.pipeline.links import Link, check
from wanavatar_lab.pipeline.progress import Progress, Typical
from wanavatar_lab.pipeline.run import POLL_SECONDS, Made, follow
from wanavatar_lab.requests import Request, parse
from wanavatar_lab.requests.custom_stages import register_extra_stages
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.worker.child_process import start_detached


@dataclass(frozen=True)
class Chain:
    """A chain as its clients see it. All is in its folder: any number of clients may follow the same."""

    folder: Path

    @classmethod
    def start(cls, links: Sequence[Link], kept: Mapping[str, Made] | None = None) -> Self:
        """Start the process of a chain; those whose end was seen are removed.

        Args:
            links: each takes files of earlier ones only.
            kept: results of links, by their file, that are not run again.

        Raises:
            RequestError: an input file is missing.
            LabError: the runs folder is not writable, or is on a disk without locks.
        """
        check(links)
        root = _root(runs_folder())
        for chain in [cls(folder) for folder in entries(root) if (folder / "seen").exists()]:
            remove_if_possible(chain.folder)
        chain = cls(root / f"{time.time_ns()}")
        written = [{**vars(link), "request": _as_json(link.request), "takes": dict(link.takes)} for link in links]
        with report_write_errors(chain.folder):
            chain.folder.mkdir(parents=True)
            (chain.folder / "lock").touch()
            write_json(chain.folder / "runs.json", {file: made.job.id for file, made in (kept or {}).items()})
            write_json(chain.folder / "links.json", {"links": written, "kept": list(kept or {})})
        lock = locks.take(chain.folder / "lock", wait=True)
        assert lock is not None
        try:
            with open(chain.folder / "log.txt", "ab") as log:
                start_detached("wanavatar_lab.pipeline.chain", str(chain.folder), lock=lock, log=log)
        finally:
            locks.drop(lock)
        return chain

    @classmethod
    def unseen(cls) -> list[Self]:
        """The chains whose end nobody has followed yet, oldest first."""
        found = [cls(folder) for folder in entries(_root(runs_folder()))]
        return [one for one in found if (one.folder / "links.json").exists() and not (one.folder / "seen").exists()]

    def links(self) -> list[Link]:
        """The links.

        Raises:
            RequestError: a stage is not known here.
        """
        return [
            Link(one["file"], _from_json(one["request"]), one["takes"], Typical(*one["typical"]))
            for one in self._read("links.json")["links"]
        ]

    def kept(self) -> dict[str, Made]:
        """The results that were there before it began, by the links' files.

        Raises:
            LabError: a run was deleted.
        """
        kept = self._read("links.json")["kept"]
        return {link.file: Made.of(self._job(link), link) for link in self.links() if link.file in kept}

    async def follow(
        self,
        show: Callable[[Progress], None],
        begun: Callable[[int, jobs.Job], None] = lambda _, __: None,
        *,
        cancel: bool = False,
    ) -> list[Made]:
        """Follow it to its end, as `pipeline.follow`; it and those before it that have ended are seen then.

        Args:
            cancel: cancel it where this is cancelled, as by the stop button of a notebook; else it goes on.

        Raises:
            RequestError: an input file was missing when its run was to begin, or a value is not allowed.
            LabError: a run failed or was cancelled, or the process that submits the runs is gone.
        """

        async def submitted(link: Link, _: Request) -> jobs.Job:
            while True:
                alive = locks.is_locked(self.folder / "lock")  # before a look at what it has left
                if link.file in self._read("runs.json"):
                    return self._job(link)
                with suppress(FileNotFoundError):
                    refused = self._read("refused.json")
                    raise RequestError([*map(tuple, refused)]) if isinstance(refused, list) else LabError(refused)
                if not alive:
                    said = read_file(self.folder / "log.txt", last=1000).decode(errors="replace").strip()
                    reason = said.rpartition("\n")[2] or "it was killed, or the machine was restarted"
                    raise LabError(f"The process that submits the stages has ended: {reason}. Run the stage again.")
                await asyncio.sleep(POLL_SECONDS)

        try:
            made = await follow(self.links(), show, begun, kept=self.kept(), submit=submitted, cancel=False)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if cancel:
                self.cancel()
            raise
        except LabError:
            self._see()
            raise
        self._see()
        return made

    def cancel(self) -> None:
        """Cancel the run that is under way; no other one begins."""
        (self.folder / "cancelled").touch()
        for link in self.links():
            if link.file in self._read("runs.json"):
                with suppress(RunError):  # an earlier one, which was deleted since
                    self._job(link).cancel()

    def run(self) -> None:
        """Submit the links one after the other; what its process does."""

        async def submit(link: Link, request: Request) -> jobs.Job:
            cancelled = self.folder / "cancelled"
            if cancelled.exists():
                raise LabError("The stages were cancelled.")
            job = jobs.submit(request, runs_dir=self._runs)
            write_json(self.folder / "runs.json", {**self._read("runs.json"), link.file: job.id})
            if cancelled.exists():  # by one who has not seen this run
                job.cancel()
            return job

        try:
            check(self.links())
            asyncio.run(follow(self.links(), lambda _: None, kept=self.kept(), submit=submit))
        except RequestError as error:
            write_json(self.folder / "refused.json", error.problems)
        except (LabError, OSError) as error:
            write_json(self.folder / "refused.json", str(error))

    def _see(self) -> None:
        for folder in entries(self.folder.parent):
            if folder == self.folder or (folder < self.folder and not locks.is_locked(folder / "lock")):
                (folder / "seen").touch()

    @property
    def _runs(self) -> Path:
        return self.folder.parents[2]

    def _job(self, link: Link) -> jobs.Job:
        return jobs.attach(self._read("runs.json")[link.file], runs_dir=self._runs)

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def _root(runs: Path) -> Path:
    return runs / ".worker" / "chains"


def _as_json(request: Request) -> dict[str, Any]:
    return {"stage": request.stage, **request.with_absolute_paths().named()}


def _from_json(values: Mapping[str, Any]) -> Request:
    return parse(values["stage"], {name: value for name, value in values.items() if name != "stage"})


if __name__ == "__main__":
    register_extra_stages()
    Chain(Path(sys.argv[1])).run()
