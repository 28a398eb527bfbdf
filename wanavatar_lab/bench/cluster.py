"""Runs an hour by the actors of a Ray cluster, beside those of one worker of this machine.

Both make the same requests, from the same queue, in a temporary folder: pictures by the pocket model, so that what is
measured is what the queue, the cluster and the folders cost. Without an address a cluster is started on this machine.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.worker.queue import RunQueue
from wanavatar_lab.worker.ray_engine import INSTALL

_NAP = 0.2  # seconds


def measure_cluster(requests: int, actors: int, address: str | None) -> dict[str, Any]:
    """Throughput of the cluster, and of one worker beside it.

    Args:
        requests: that each of them gets.
        actors: at most so many work at the same time.
        address: of a cluster, as in WANAVATAR_ENGINE; None to start one with so many CPUs.

    Raises:
        LabError: a run fails, or Ray is not installed.
    """
    rows = []
    with _cluster(actors) if address is None else _given(address) as engine:
        for name, where, most in (
            (f"{actors} actor{'s' * (actors != 1)}", engine, actors),
            ("1 local worker", "local", 1),
        ):
            rows.append({"name": name, **_measure(requests, where, most)})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"bench": "cluster", "requests": requests, "cores": cores, "load": os.getloadavg()[0], "rows": rows}


def _measure(requests: int, engine: str, most: int) -> dict[str, Any]:
    """Make so many pictures on an engine."""
    settings = {"WANAVATAR_ENGINE": engine, "WANAVATAR_WORKERS": str(most), "WANAVATAR_DEVICE": "cpu"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    with tempfile.TemporaryDirectory() as folder:
        try:
            root = Path(folder)
            request = TextToImage(profile="pocket", prompt="a woman with red hair", num_inference_steps=1)
            begun = time.time()
            made = [jobs.submit(request.changed(seed=seed), runs_dir=root) for seed in range(requests)]
            while not all(job.status().ended for job in made):
                time.sleep(_NAP)
            ended = [job.status() for job in made]
            if failed := [status for status in ended if status.state != "succeeded"]:
                raise LabError(f"{len(failed)} of {requests} runs failed, the first: {failed[0].message}")
            nodes = {str(status.node or "this machine") for status in ended}
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
            _stop(root)
    times = sorted(status.finished_at or 0.0 for status in ended)
    warm = times[min(most, requests) - 1]  # from then on models are loaded
    return {
        "seconds": round(times[-1] - begun, 1),
        "warm_after": round(warm - begun, 1),
        "runs_an_hour_warm": round(3600 * (requests - most) / (times[-1] - warm)) if requests > most else None,
        "nodes": sorted(nodes),
    }


def _stop(root: Path) -> None:
    """End the supervisor of the folder, and wait until it and its workers are gone."""
    if (ids := RunQueue(root).process_ids()) is not None and psutil.pid_exists(ids.supervisor):
        supervisor = psutil.Process(ids.supervisor)
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(60)


@contextmanager
def _given(address: str) -> Iterator[str]:
    yield address


@contextmanager
def _cluster(cpus: int) -> Iterator[str]:
    """A cluster of this machine that listens on the loopback address only; ended at the exit."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray replaces 127.0.0.1 by an outer address
    try:
        import ray
    except ImportError as error:
        raise LabError(f"This bench needs Ray, and it cannot be imported ({error}). Install it: {INSTALL}") from error
    ray.init(address="local", num_cpus=cpus, num_gpus=0, include_dashboard=False, log_to_driver=False)
    try:
        yield str(ray.get_runtime_context().gcs_address)
    finally:
        ray.shutdown()
