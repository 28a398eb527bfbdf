"""Runs as the service's clients see them: submitted within limits, watched by many, cancelled.

Nothing of a run is kept in memory but who submitted it and a status for a moment, so a service that is started again
shows every run as it is.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from fastapi import Request as HttpRequest
from starlette.concurrency import run_in_threadpool

from wanavatar_lab import jobs
from wanavatar_lab.api.fields import Fields
from wanavatar_lab.api.options import Options
from wanavatar_lab.api.processes import Processes
from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, Request, TextToImage, Upscale
from wanavatar_lab.requests.request import shown
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder
from wanavatar_lab.runs.status import Artifact, Status, main_artifact
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import look, missing_weights, weights_at
from wanavatar_lab.worker.queue import RunQueue

FRESH = 0.2  # seconds for which a status that was read answers all who ask; the worker writes about as often
_MOST_KEPT = 4096  # statuses
_MOST_CLIENTS = 4096  # whose runs are counted
_POLL = 0.2  # seconds between looks at a run that is waited for
_HEARTBEAT = 15.0  # seconds; proxies close a stream of events on which nothing comes for a minute


@dataclass(frozen=True)
class Task:
    """A run now."""

    run: Run
    status: Status

    @property
    def main(self) -> Artifact | None:
        """Its main result; None until it has succeeded."""
        if self.status.state != "succeeded":
            return None
        model = STAGE_REQUESTS.get(self.run.stage)
        try:
            return main_artifact(self.status.artifacts, model.artifact if model else "")
        except LabError:
            return None


class Tasks:
    """The runs of a service."""

    def __init__(self, options: Options) -> None:
        self.options = options
        # a recording of 2 GiB is copied and hashed, which a slow disk takes minutes for
        self._processes = Processes(1, 300.0, checks=False)
        # threads of their own, so that statuses never wait for uploads
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="status")
        self._kept: OrderedDict[str, tuple[float, asyncio.Future[Status]]] = OrderedDict()
        self._of_client: OrderedDict[str, set[str]] = OrderedDict()
        self._submitting: Counter[str] = Counter()

    async def close(self) -> None:
        """End what it has started; runs go on."""
        await self._processes.close()
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def submit(
        self, asked: HttpRequest, request: Request, fields: Fields | None = None, area: int | None = None
    ) -> str:
        """Submit a request for the client that asks, and return the run's id.

        Args:
            fields: by which errors name the fields of the request.
            area: pixels of a clip at most, in the shape of its picture.

        Raises:
            HTTPException: 429, the client or the queue has too many runs; 503, the weights are missing.
            RequestError: a file or a LoRA is not what the request needs.
        """
        # tools have no weights, and custom stages say themselves what they lack
        stages = [request.stage] if request.stage in PROFILES[self.options.profile].locations else []
        stages += [Upscale.stage] if isinstance(request, TextToImage) and request.upscale else []
        for stage in stages:
            if why := await run_in_threadpool(missing, stage, self.options.profile):
                raise HTTPException(503, why)
        client = asked.client.host if asked.client else ""
        mine = self._of_client.setdefault(client, set())
        self._of_client.move_to_end(client)
        self._submitting[client] += 1
        try:
            queued = set(await run_in_threadpool(lambda: RunQueue(runs_folder()).run_ids()))
            ended = await run_in_threadpool(_ended, set().union(*self._of_client.values()) - queued)
            for each in self._of_client.values():
                each -= ended
            queued.update(*self._of_client.values())  # tools are executed beside the queue
            if len(mine) + self._submitting[client] > self.options.jobs_per_client:
                limit = self.options.jobs_per_client
                raise _too_many(f"{limit} runs of yours have not ended, which is the limit for each client")
            if len(queued) + self._submitting.total() > self.options.most_jobs:
                raise _too_many(f"{self.options.most_jobs} runs wait already, which is the limit of this service")
            run_id: str = await self._processes.call("submit", request=request.to_json(), area=area)
            mine.add(run_id)
        except RequestError as error:
            raise (fields.renamed(error) if fields else error) from None
        finally:
            self._submitting[client] -= 1
            self._submitting += Counter()  # without those at 0
            while len(self._of_client) > _MOST_CLIENTS:
                self._of_client.popitem(last=False)
        return run_id

    async def task(self, task_id: str) -> Task:
        """A run by its id.

        Raises:
            HTTPException: 404, there is none.
        """
        if not RUN_ID.fullmatch(task_id):
            raise _unknown(task_id)
        now, kept = time.monotonic(), self._kept.get(task_id)
        if kept is None or (kept[1].done() and now - kept[0] > FRESH):
            # one reads, all who ask meanwhile wait for it
            reading = asyncio.get_running_loop().run_in_executor(self._readers, _status, task_id)
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            kept = self._kept[task_id] = (now, reading)
            self._kept.move_to_end(task_id)
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        try:
            # shielded: a client that goes away must not cancel it for the others
            return Task(Run(runs_folder() / task_id), await asyncio.shield(kept[1]))
        except RunError:
            raise _unknown(task_id) from None

    async def cancel(self, task_id: str) -> Task:
        """Cancel a run; one that has ended stays as it is.

        Raises:
            HTTPException: 404, there is none.
        """
        await self.task(task_id)
        try:
            await run_in_threadpool(lambda: jobs.attach(task_id).cancel())
        except RunError:
            raise _unknown(task_id) from None
        self.forget(task_id)
        return await self.task(task_id)

    def forget(self, task_id: str) -> None:
        """Look at the disk when it is next asked for: it was changed."""
        self._kept.pop(task_id, None)

    async def changes(self, task_id: str) -> AsyncIterator[Task | None]:
        """The run now, and at each change until it has ended; None where a stream should show that it is alive."""
        task = await self.task(task_id)
        yield task
        said = time.monotonic()
        while not task.status.ended:
            await asyncio.sleep(_POLL)
            try:
                now = await self.task(task_id)
            except HTTPException:  # deleted meanwhile
                return
            if now.status != task.status:
                task, said = now, time.monotonic()
                yield task
            elif time.monotonic() - said > _HEARTBEAT:
                said = time.monotonic()
                yield None


def missing(stage: str, profile: str) -> str:
    """Why a stage cannot run, where its weights are missing; empty if they are there."""
    weights_dir = read_settings().weights_dir
    folder = PROFILES[profile].weights(stage, weights_dir)
    weights = weights_at(folder)
    # one entry of the table holds all pocket models, and says nothing of a single one
    lacking = weights is not None and weights.path(weights_dir) == folder and look(weights, weights_dir).missing
    return str(missing_weights(stage, folder)) if lacking or not folder.exists() else ""


def wire_status(task: Task, url: Any) -> dict[str, Any]:
    """The answer of /api/status.

    Args:
        url: the URL of an artifact.
    """
    status = task.status
    states = {"queued": "pending", "running": "processing", "succeeded": "completed"}
    upscaled = next((one for one in status.artifacts if one.role == "upscaled"), None)
    main, failed = task.main, status.state == "failed"
    return {
        "status": states.get(status.state, status.state),
        "progress": 0.0 if failed else round(status.fraction, 4),
        "message": (status.error or status.message) if failed else status.message,
        "output_path": url(task.run, main) if main else None,
        "seed": status.seed,
        "upscaled_path": url(task.run, upscaled) if upscaled and main and upscaled != main else None,
        "queue_position": status.queue_place,
        "eta": None if status.eta_seconds is None else round(status.eta_seconds, 1),
    }


def _ended(run_ids: set[str]) -> set[str]:
    """Those of the runs that have ended, or are gone."""
    statuses = {run_id: Run(runs_folder() / run_id).readable_status() for run_id in run_ids}
    return {run_id for run_id, status in statuses.items() if status is None or status.ended}


def _status(task_id: str) -> Status:
    return jobs.attach(task_id).status()


def _unknown(task_id: str) -> HTTPException:
    return HTTPException(404, f"There is no task {shown(task_id)}.")


def _too_many(why: str) -> HTTPException:
    return HTTPException(429, f"{why}. Wait until one has ended, or cancel one.", {"Retry-After": "5"})
