"""Submit a request, watch it, cancel it, find it again.

    job = submit(SpeechToVideo(image="a.png", audio="v.wav", profile="pocket"))
    status = job.wait()               # shows its progress, raises if it fails; or: artifacts = await job.result()
    attach(job.id).status()           # later, from any process, also after this one has died
    job.move("first")                 # it is next; list_queue() has the order
    pause(); resume()                 # no run starts meanwhile

The work is done by processes that outlive the client: see `wanavatar_lab.worker.supervisor`.
Nothing here imports torch.
"""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanavatar_lab import locks
from wanavatar_lab.errors import LabError, RunError, RunsAway
from wanavatar_lab.lora import check_loras, with_usual_weights
from wanavatar_lab.requests import Request
from wanavatar_lab.runs import display
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run, draft, list_runs, runs_folder
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.settings import read_settings
from wanavatar_lab.worker.error_messages import supervisor_died, worker_died
from wanavatar_lab.worker.queue import RunQueue
from wanavatar_lab.worker.supervisor import MOST_STARTS, start_supervisor

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "Job",
    "attach",
    "cancel_all",
    "is_paused",
    "list_jobs",
    "list_queue",
    "pause",
    "resume",
    "run_here",
    "submit",
]

# seconds between looks at a run that is waited for: the first finds short runs at once, the last costs little
_SHORTEST_NAP, _LONGEST_NAP = 0.02, 0.2

_followed: set["asyncio.Task[None]"] = set()  # of jobs that a notebook shows


@dataclass(frozen=True)
class Job:
    """A run as its clients see it. Nothing is kept in memory: any number of clients may hold the same."""

    run: Run

    @property
    def id(self) -> str:
        """The run's id, for `attach`."""
        return self.run.id

    def status(self) -> Status:
        """The status now. A run whose processes were all killed is finished here, as failed.

        So is a queued run when `supervisor.MOST_STARTS` supervisors in a row died before they took one; the next
        look at another queued run, or the next `submit`, tries again.

        Raises:
            RunError: its folder is gone or damaged.
        """
        status = self.run.status()
        if status.ended:
            return status
        queue = RunQueue(self.run.folder.parent)
        lost = status.state == "queued" and self.run.was_submitted() and queue.place(self.id) is None
        if lost and os.access(queue.root, os.W_OK):
            queue.restore()
        if (failed := _tend(queue, start=True, waiting=self.run)) is not None:
            return failed
        place = queue.place(self.id)
        if place is None and status.state == "running" and not self.run.is_held():
            # a killed client executed it itself, or its supervisor could not write how it ended
            return _fail(self.run, worker_died("the process that executed it is gone"))
        status = self.run.status()
        if status.state != "queued":
            return status
        ahead = None if place is None else place - 1
        message = "not queued" if ahead is None else f"{ahead} run{'s' * (ahead != 1)} ahead" if ahead else "next"
        paused = place is not None and queue.is_paused()
        message += "; the queue is paused" * paused
        return status.model_copy(update={"queue_place": place, "queue_paused": paused, "message": message})

    def wait(self, timeout: float | None = None, *, check: bool = True, progress: bool = True) -> Status:
        """Wait until it has ended, and show its progress: a bar in a notebook, lines of text elsewhere.

        Args:
            timeout: seconds; the status after them may be that it still runs. None waits for as long as it takes.
            check: raise where it failed or was cancelled; without it the status says so.
            progress: show it.

        Raises:
            RunError: it failed or was cancelled, with the run's error; or its folder is gone or damaged.
        """
        view = self._view(progress)
        deadline = time.monotonic() + (math.inf if timeout is None else timeout)
        nap = _SHORTEST_NAP
        while not view(status := self.status()).ended:
            if (left := deadline - time.monotonic()) <= 0:
                return status
            time.sleep(min(nap, left))
            nap = min(2 * nap, _LONGEST_NAP)
        return self._checked(status) if check else status

    async def result(self, *, progress: bool = True, cancel: bool = False) -> list[Artifact]:
        """Wait without blocking the event loop, as `wait` does.

        Args:
            progress: show it.
            cancel: cancel the run where the wait is cancelled, as by the stop button of a notebook; else it goes on.

        Returns:
            What it made.

        Raises:
            RunError: it failed or was cancelled.
        """
        import asyncio  # slow to import, and only asynchronous clients need it

        view = self._view(progress)
        try:
            while not view(status := self.status()).ended:
                await asyncio.sleep(_LONGEST_NAP)
        except (KeyboardInterrupt, asyncio.CancelledError):
            if cancel:
                self.cancel()
            raise
        return self._checked(status).artifacts

    def _view(self, progress: bool) -> Callable[[Status], Status]:
        """Shows a status, if `progress`, and returns it."""
        view = display.ProgressView(display.title_of(self.run), self.id) if progress else None

        def show(status: Status) -> Status:
            if view is not None:
                view.show(status)
            return status

        return show

    def _checked(self, status: Status) -> Status:
        if status.state != "succeeded":
            raise RunError(f"The run {self.id} {'failed: ' if status.error else 'was '}{status.message}")
        return status

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The state, what was made, and the request; of a run that is gone or damaged, that it is."""
        return display.run_bundle(self.run, self.status)

    def _ipython_display_(self) -> None:
        """Show it; where a person looks at a notebook, what is shown follows the run until it has ended."""
        output = display.LiveOutput()
        output.show(self._repr_mimebundle_())
        if display.in_live_notebook() and not self._stays():
            import asyncio

            task = asyncio.get_running_loop().create_task(self._follow(output))
            _followed.add(task)  # else it may be collected while it waits
            task.add_done_callback(_followed.discard)

    async def _follow(self, output: "display.LiveOutput") -> None:
        import asyncio

        stays = False
        while not stays:
            await asyncio.sleep(_LONGEST_NAP)
            stays = self._stays()
            output.show(self._repr_mimebundle_())

    def _stays(self) -> bool:
        """Whether what is shown will not change any more: it has ended, or is gone or damaged."""
        try:
            return self.status().ended
        except RunError as error:
            return not isinstance(error, RunsAway)

    def cancel(self, *, now: bool = False) -> None:
        """Request cancellation. A queued run ends at once, a running one within a denoising step.

        Args:
            now: kill the worker without waiting for the stage; the next run then has to load its models again.
        """
        if self.run.status().ended:
            return
        queue = RunQueue(self.run.folder.parent)
        queue.prepare()
        with queue.locked():
            status = self.run.status()
            if status.state == "queued":
                finish_run(self.run, "cancelled")
                queue.remove(self.id)
            elif not status.ended:
                self.run.request_cancel(now=now)

    def move(self, to: str) -> None:
        """Change its place in the queue, for all clients.

        Args:
            to: first, up, down or last among the runs that wait, or the id of another one, before which it goes.

        Raises:
            RunError: it does not wait (any more), or there is no such place.
        """
        queue = RunQueue(self.run.folder.parent)
        queue.prepare()
        with queue.locked():
            queue.move(self.id, to)

    def artifacts(self) -> list[Artifact]:
        """What it made, with absolute paths; empty until it has ended."""
        return self.status().artifacts


def submit(request: Request, *, runs_dir: Path | str | None = None, gpus: int | str | None = None) -> Job:
    """Queue a run, with the settings of this process, and start a supervisor if there is none.

    A request that needs no model (`queued` is false), such as a tool's, is executed at once instead, by a process of
    its own.

    Args:
        request: of the run.
        runs_dir: the folder of all runs.
        gpus: how many GPUs share it, or on a CPU how many processes; "auto" for as many as make it faster, None for
            the settings'. The result is the same, so that this is no part of the request.

    Raises:
        RequestError: an input file is missing or cannot be read, or a LoRA is unknown or for another model.
        DiskFull: there is no room; nothing is left behind.
        LabError: the runs folder is not writable, or is on a disk without locks; or `gpus` is no such number.
        KeyboardInterrupt: Ctrl-C; a run that is queued by then is cancelled.
    """
    settings = read_settings(os.environ if gpus is None else os.environ | {"WANAVATAR_GPUS": str(gpus)})
    request.check_inputs()
    check_loras(request)
    # the worker has a working directory of its own, and what is noted beside a LoRA may change
    request = with_usual_weights(request).with_absolute_paths()
    root = runs_folder(runs_dir)
    if not request.queued:
        return _start_at_once(request, root)
    queue = RunQueue(root)
    with _submitting(request, root, Status(message="waiting for the worker", submitted_at=time.time())) as drafted:
        drafted.write_settings(settings)
        queue.prepare()
        with queue.locked():
            queue.add(drafted.id)
            queue.count_starts(0)  # the cause of which supervisors died may have been removed since
            try:
                run = drafted.publish()
            except BaseException:
                queue.remove(drafted.id)
                raise
        _tend(queue, start=True)
    return Job(run)


def attach(run_id: str, *, runs_dir: Path | str | None = None) -> Job:
    """The job of a run, whenever and by whatever process it was submitted.

    Raises:
        RunError: there is no such run.
    """
    return Job(Run.open(run_id, runs_dir=runs_dir))


def list_jobs(*, runs_dir: Path | str | None = None) -> list[Job]:
    """All jobs, newest first."""
    queue = RunQueue(runs_folder(runs_dir))
    with suppress(locks.NoLocks):  # an archive on such a disk can be listed all the same
        _tend(queue, start=False)
    return [Job(run) for run in list_runs(queue.root)]


def list_queue(*, runs_dir: Path | str | None = None) -> list[Job]:
    """The jobs that have not ended, in the order in which they start: first those that are running."""
    queue = RunQueue(runs_folder(runs_dir))
    with suppress(locks.NoLocks):
        _tend(queue, start=False)
    runs = [Run(queue.root / run_id) for run_id in queue.run_ids()]
    # a run that has just ended keeps its ticket until the supervisor has heard of it
    return [Job(run) for run in runs if (status := run.readable_status()) is not None and not status.ended]


def cancel_all(*, runs_dir: Path | str | None = None) -> list[Job]:
    """Cancel all jobs of the queue, the last one first, so that none starts meanwhile; returns them in their order."""
    found = list_queue(runs_dir=runs_dir)
    for job in reversed(found):
        with suppress(RunError):  # it was deleted since
            job.cancel()
    return found


def pause(*, runs_dir: Path | str | None = None) -> None:
    """Let no run of the queue start, for all clients, until `resume`; one that is running goes on to its end."""
    _set_paused(runs_dir, True)


def resume(*, runs_dir: Path | str | None = None) -> None:
    """Continue a paused queue."""
    _tend(_set_paused(runs_dir, False), start=True)


def is_paused(*, runs_dir: Path | str | None = None) -> bool:
    """Whether the queue is paused."""
    return RunQueue(runs_folder(runs_dir)).is_paused()


def run_here(request: Request, *, runs_dir: Path | str | None = None) -> Run:
    """Execute a request in this process, without queue or worker, in the very same steps: for debugging.

    Returns:
        The run, which has ended; its status says how.
    """
    # not at the top: clients that only submit need none of it
    from wanavatar_lab.worker.execute import choose_device, execute  # choosing imports torch
    from wanavatar_lab.worker.model_cache import ModelCache

    status = Status(submitted_at=time.time()).started()
    with draft(request.with_absolute_paths(), runs_folder(runs_dir), status) as drafted, drafted.held():
        run = drafted.publish()
        execute(run, ModelCache(choose_device() if request.queued else "cpu"))
    return run


@contextmanager
def _submitting(request: Request, root: Path, status: Status) -> Iterator[Run]:
    """A draft; a Ctrl-C after it is published cancels it, since the caller has no job yet that could be cancelled."""
    with draft(request, root, status) as drafted:
        try:
            yield drafted
        except KeyboardInterrupt:
            published = Run(root / drafted.id)
            if published.folder.exists():
                Job(published).cancel()
            raise


def _start_at_once(request: Request, root: Path) -> Job:
    from wanavatar_lab.worker.at_once import start_at_once  # few clients have a tool to run

    with _submitting(request, root, Status(submitted_at=time.time()).started()) as drafted:
        # held from before it is listed until its process ends, or a look at it would take it for abandoned
        lock = locks.take(drafted.folder / "log.txt", wait=True)
        assert lock is not None
        try:
            run = drafted.publish()
            start_at_once(run, lock)
        finally:
            locks.drop(lock)
    return Job(run)


def _tend(queue: RunQueue, *, start: bool, waiting: Run | None = None) -> Status | None:
    """If no supervisor lives, finish the run that it left behind; with `start`, start one if runs may be taken.

    Nothing where there is no queue, or a read-only one.

    Args:
        waiting: the run that is looked at, which fails if it is queued and supervisors die as they start.

    Returns:
        How `waiting` ended, if it did here.
    """
    if not queue.is_writable():
        return None
    with queue.locked():
        lock = queue.claim()
        if lock is None:
            return None
        try:
            queue.finish_abandoned()
            run_ids, starts = queue.takeable() if start else [], queue.starts()
            if run_ids and starts < MOST_STARTS:
                start_supervisor(queue, lock)
            elif waiting is not None and waiting.id in run_ids and waiting.status().state == "queued":
                # with both locks held, so that no client starts a supervisor that takes it meanwhile
                status = _fail(waiting, supervisor_died(starts, queue.log, queue.last_line()))
                queue.remove(waiting.id)
                queue.count_starts(0)
                return status
            return None
        finally:
            locks.drop(lock)


def _set_paused(runs_dir: Path | str | None, paused: bool) -> RunQueue:
    queue = RunQueue(runs_folder(runs_dir))
    queue.prepare()
    with queue.locked():
        queue.set_paused(paused)
    return queue


def _fail(run: Run, error: str) -> Status:
    """Finish a run that no process executes as failed; how it ended, if another process was faster."""
    status = run.status()
    try:
        with run.held():
            status = run.status()
            return status if status.ended else finish_run(run, "failed", error=error)
    except (LabError, OSError) as fault:
        # failed all the same, and the next look tries again to write it down
        error = f"{error} This could not be written into its folder: {fault}"
        return status.model_copy(update={"state": "failed", "error": error, "message": error})


def __dir__() -> list[str]:
    return __all__
