"""The driver of a Ray cluster: a process beside the supervisor that gives runs to actors, one for each place.

    supervisor ── run id ──▶ driver, a thread per place ──▶ actor on a node (`worker/ray_node.py`) ──▶ worker process
        ▲                      │  status, log, previews and files, where the node does not see the runs folder
        └──────── done ────────┘

    python -m wanavatar_lab.worker.ray_driver <runs folder> <process id of the supervisor> <address of the cluster>

A process of its own, since Ray ends a process that loses the cluster, and the supervisor has to outlive that. Its
standard input is a socket, on which `worker/ray_engine.py` sends another socket for each place, and which tells it the
resources of the cluster. On a place's socket it reads what to run, one JSON object a line, and answers `done` when the
run has ended. Actors are kept between runs: whichever place has a run takes one that is free.

A run whose actor or node is lost begins again on another one, once; its log, status and manifest say so.
"""

import importlib.metadata
import json
import logging
import os
import secrets
import select
import socket
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import entries, remove_if_possible
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import STARTING, Status
from wanavatar_lab.worker.child_process import die_with_parent, how_it_ended
from wanavatar_lab.worker.error_messages import worker_died
from wanavatar_lab.worker.ray_engine import INSTALL, at_most, fitting, in_words
from wanavatar_lab.worker.ray_folder import RemoteFolder, clear
from wanavatar_lab.worker.ray_node import NodeWorker

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read as it is imported
_MISSING = ""
try:
    import ray
except ImportError as missing:
    _MISSING = str(missing)  # said in the run that wants it

NAMESPACE = "wanavatar-lab"
_REACH_SECONDS = 5.0  # for a connection to the address
_CONNECT_SECONDS = 30.0  # for the cluster to answer; Ray itself would try for ever
_COUNT_SECONDS = 5.0  # between looks at the cluster's resources
_LOOK_SECONDS = 0.5  # that an actor waits for news
_NAP = 0.1  # seconds between looks for a cancellation
_HELLO_SECONDS = 10.0  # for an idle actor to answer
_EVICT_SECONDS = 1.0  # that an actor waits for resources before an idle one with other settings gives up its own
_START_SECONDS = 60.0  # that an actor takes to start at most, where the cluster has room for it
_MOST_STARTS = 3  # of an actor whose node is lost as it starts


class Killed(Exception):
    """The supervisor wants the run's worker killed, or is gone."""


class Ended(Exception):
    """The run has ended already."""


def main(runs_dir: Path, supervisor: int, address: str) -> None:
    """Serve places until the supervisor is gone."""
    die_with_parent(supervisor)
    control = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    cluster = Cluster(runs_dir, address)
    threading.Thread(target=cluster.watch, args=(control,), name="cluster", daemon=True).start()
    while True:
        message, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)  # its actors end with it
        place = PlaceThread(cluster, socket.socket(fileno=handles[0]))
        threading.Thread(target=place.serve, name="place", daemon=True).start()


def connect(address: str) -> None:
    """Connect this process to a cluster.

    Args:
        address: `auto` for the one of this machine, host:port, or ray://host:port for its client server.

    Raises:
        LabError: Ray is not installed, is of another version, or there is no cluster.
    """
    if _MISSING:
        raise LabError(f"WANAVATAR_ENGINE asks for Ray, and it cannot be imported ({_MISSING}). Install it: {INSTALL}")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    cluster = _named(address)
    advice = "Start it (ray up, ray start), or correct WANAVATAR_ENGINE; WANAVATAR_ENGINE=local runs on this machine."
    if host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
        except (OSError, ValueError) as error:
            raise LabError(f"{cluster} cannot be reached ({error}). {advice}") from error
    try:
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
    except Exception as error:  # whatever Ray raises, such as RuntimeError where versions differ
        if not host and isinstance(error, ConnectionError):  # no cluster runs here, so nothing was asked
            raise LabError(f"{cluster} cannot be reached: none is running here. {advice}") from error
        text = " ".join(str(error).split()) or type(error).__name__
        raise LabError(
            f"{cluster} does not accept this process: {text} All machines need the same release of Ray and of Python, "
            f"and the same token (RAY_AUTH_MODE, ~/.ray/auth_token) if the cluster has one. {advice}"
        ) from error


def _named(address: str) -> str:
    return "The Ray cluster of this machine" if address == "auto" else f"The Ray cluster at {address}"


class Cluster:
    """The cluster, once it is connected, and the actors there that no place uses now."""

    def __init__(self, runs_dir: Path, address: str) -> None:
        self.runs_dir, self._address = runs_dir, address
        self._connected, self._fault = threading.Event(), ""
        self._lock = threading.Lock()
        self._idle: list[Actor] = []
        folder = runs_dir / ".worker"
        for old in entries(folder, "ray-*"):
            remove_if_possible(old)
        token = folder / f"ray-{secrets.token_hex(8)}"
        token.touch()
        self.token = token.relative_to(runs_dir).as_posix()

    def watch(self, control: socket.socket) -> None:
        """Connect, then tell the engine what the nodes have, whenever that changes, until the cluster is lost."""
        connecting = threading.Thread(target=self._connect, name="connect", daemon=True)
        connecting.start()
        connecting.join(_CONNECT_SECONDS)
        if not self._connected.is_set():
            self._fault = self._fault or (
                f"{_named(self._address)} has not answered for {_CONNECT_SECONDS:.0f} s. Look whether its head "
                "node is up, its ports are open, and its token, if it has one, is the one here (RAY_AUTH_MODE, "
                "~/.ray/auth_token), or set WANAVATAR_ENGINE=local to run on this machine."
            )
            control.sendall(json.dumps({"failed": self._fault}).encode() + b"\n")  # before any place says done
            self._connected.set()
            return
        said = None
        while True:
            try:
                nodes = self.nodes()
            except Exception as error:  # noqa: BLE001  whatever Ray raises: its client outlives the end of its connection
                lost = f"{_named(self._address)} is lost ({type(error).__name__}: {error}). Run it again."
                # a driver that says so gets no more runs, and is replaced once its last one has ended
                control.sendall(json.dumps({"failed": lost}).encode() + b"\n")
                self._fault = lost
                return
            if nodes != said:
                control.sendall(json.dumps({"nodes": nodes}).encode() + b"\n")
                said = nodes
            time.sleep(_COUNT_SECONDS)

    def _connect(self) -> None:
        try:
            connect(self._address)
        except LabError as error:
            self._fault = str(error)
        else:
            self._connected.set()

    def nodes(self) -> list[dict[str, float]]:
        """CPUs, GPUs and main memory in bytes of each node that lives."""
        names = ("CPU", "GPU", "memory")
        return [{name: node["Resources"].get(name, 0.0) for name in names} for node in ray.nodes() if node["Alive"]]

    def take(self, need: dict[str, int], settings: dict[str, str], place: "PlaceThread", run: Run) -> "Actor":
        """An actor for a run: an idle one, or a new one as soon as the cluster has room.

        Raises:
            LabError: the cluster is not there, no node has what is needed, or a node is not set up for this.
            Killed: the run's worker is to be killed.
            Ended: the run was cancelled while it waited.
        """
        while not self._connected.wait(_NAP):
            place.check(run)
        if self._fault:
            raise LabError(self._fault)
        starting: Actor | None = None
        begun, starts, crowded = time.monotonic(), 0, False
        try:
            while True:
                if (actor := self._reuse(need, settings)) is not None:
                    return actor
                if starting is None:
                    self._refuse_what_no_node_has(need)
                    crowded = not self._has_room(need)
                    starting, starts = self._start(need, settings), starts + 1
                if ray.wait([starting.greeting], timeout=_NAP)[0]:
                    try:
                        starting.greet(ray.get(starting.greeting))
                    except ray.exceptions.RayError as error:
                        if starts == _MOST_STARTS or "creation task" in str(error):
                            raise LabError(_not_started(error)) from error
                        starting = None
                        continue
                    actor, starting = starting, None
                    return actor
                place.check(run)
                # where there is room, an actor only takes its time to start, and others may keep their models
                if time.monotonic() - begun > (_EVICT_SECONDS if crowded else _START_SECONDS):
                    begun, crowded = time.monotonic(), True
                    place.say(run, "waiting for room in the cluster")
                    self._refuse_what_no_node_has(need)
                    self._evict()
        finally:
            if starting is not None:
                starting.end()

    def give_back(self, actor: "Actor") -> None:
        """Let other runs have an actor."""
        with self._lock:
            self._idle.append(actor)

    def _reuse(self, need: dict[str, int], settings: dict[str, str]) -> "Actor | None":
        while True:
            with self._lock:
                fits = [each for each in self._idle if (each.need, each.settings) == (need, settings)]
                if not fits:
                    return None
                actor = fits[-1]  # the one that was used last
                self._idle.remove(actor)
            try:  # one that was lost while idle is no fault of this run
                ray.get(actor.handle.hello.remote(), timeout=_HELLO_SECONDS)
            except ray.exceptions.RayError:
                actor.end()
            else:
                return actor

    def _start(self, need: dict[str, int], settings: dict[str, str]) -> "Actor":
        nodes = self.nodes()
        # a GPU's actor takes the threads of its part of the node's cores
        share = need["GPU"] / max(1.0, *(node["GPU"] for node in nodes))
        start: Any = ray.remote(NodeWorker)  # whose type has no options
        start = start.options(
            num_cpus=need["CPU"],
            num_gpus=need["GPU"],
            memory=at_most(need, nodes)["memory"],
            max_concurrency=4,
            max_restarts=0,
        )
        handle = start.remote(settings, str(self.runs_dir), self.token, need["CPU"], share)
        return Actor(handle, need, settings, handle.hello.remote())

    def _evict(self) -> None:
        """End the idle actor that was used longest ago, whose resources another one waits for."""
        with self._lock:
            actor = self._idle.pop(0) if self._idle else None
        if actor is not None:
            actor.end()

    def _has_room(self, need: dict[str, int]) -> bool:
        """Whether the nodes together have what an actor takes and nobody uses."""
        free = ray.available_resources()
        asked = at_most(need, self.nodes())
        return all(free.get(name, 0.0) >= number for name, number in asked.items())

    def _refuse_what_no_node_has(self, need: dict[str, int]) -> None:
        nodes = self.nodes()
        if not any(fitting({**need, "memory": 0}, node) for node in nodes):
            have = "; ".join(map(in_words, nodes)) or "none"
            raise LabError(
                f"No node of the Ray cluster has what this run needs, {in_words(need)}; its nodes have: {have}. Start "
                "a node that has it, set WANAVATAR_GPUS to fewer, or choose the profile pocket."
            )


@dataclass(eq=False)
class Actor:
    """An actor of the cluster.

    Attributes:
        handle: Ray's.
        need: what it takes of the cluster.
        settings: of its worker.
        greeting: Ray's reference to its answer to `hello`.
        node: the name of its node.
        shared: whether it sees the runs folder.
        folder: the runs folder there.
    """

    handle: Any
    need: dict[str, int]
    settings: dict[str, str]
    greeting: Any
    node: str = ""
    shared: bool = False
    folder: str = ""

    def greet(self, answer: dict[str, Any]) -> None:
        """Take what it says of itself.

        Raises:
            LabError: its node has another release of this package.
        """
        self.node, self.shared, self.folder = answer["node"], answer["shared"], answer["folder"]
        ours = importlib.metadata.version("wanavatar-lab")
        if answer["version"] != ours:
            self.end()
            raise LabError(
                f"The node {self.node} has wanavatar-lab {answer['version']}, and this machine {ours}. Install the "
                "same on all nodes."
            )

    def call(self, method: str, *values: Any) -> Any:
        """Call a method and wait for its answer.

        Raises:
            LabError: its node cannot read or write the run's files.
        """
        try:
            return ray.get(getattr(self.handle, method).remote(*values))
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, OSError):
                raise
            raise LabError(
                f"The node {self.node} cannot work with the run's files in {self.folder} ({error.cause}). Make room "
                "there, or correct the permissions, and run it again."
            ) from error

    def end(self) -> None:
        """End it and its worker, if it is there."""
        with suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self.handle)


class PlaceThread:
    """One place, which executes a run at a time.

    Args:
        cluster: that has actors.
        channel: to the supervisor.
    """

    def __init__(self, cluster: Cluster, channel: socket.socket) -> None:
        self._cluster, self._channel = cluster, channel
        self._unread = b""
        self._closed = False

    def serve(self) -> None:
        """Execute runs until the supervisor gives the place up."""
        with self._channel:
            while (order := self._order(None)) is not None:
                answer = "killed" if order.get("kill") else self._execute(**order)
                with suppress(ConnectionError):  # the supervisor has given the place up
                    self._channel.sendall(f"{answer}\n".encode())

    def check(self, run: Run) -> None:
        """Look for what ends a run that waits.

        Raises:
            Killed: the supervisor wants its worker killed, or has given the place up.
            Ended: it was cancelled, and is finished.
        """
        self._check_killed()
        if run.cancel_requested():
            finish_run(run, "cancelled")
            raise Ended

    def _check_killed(self) -> None:
        if self._order(0.0) is not None or self._closed:
            raise Killed

    def _execute(self, run: str, need: dict[str, int], settings: dict[str, str]) -> str:
        """Execute a run, on a second actor if the first is lost; what to answer."""
        it = Run(self._cluster.runs_dir / run)
        try:
            while not self._execute_once(it, need, settings):
                pass
        except Ended:
            pass
        except Killed:
            return "killed"
        except Exception as error:  # noqa: BLE001  the run has to end, and the place stays
            if not isinstance(error, LabError):
                traceback.print_exc()
            status = it.readable_status()
            if status is None or not status.ended:
                text = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
                try:
                    finish_run(it, "failed", error=text)
                except Exception:  # noqa: BLE001  its folder was removed, say
                    traceback.print_exc()
        return "done"

    def _execute_once(self, run: Run, need: dict[str, int], settings: dict[str, str]) -> bool:
        """Execute a run on an actor; whether it has ended, and need not begin again."""
        actor = self._cluster.take(need, settings, self, run)
        try:
            self._execute_on(actor, run)
        except Killed:
            self._cluster.give_back(actor)
            raise
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.ObjectLostError,  # what it has answered lies on its node until it is here
        ) as error:
            actor.end()
            self._begin_again(run, actor, error)
            return False
        except BaseException:
            actor.end()  # whatever it does with the run
            raise
        self._cluster.give_back(actor)
        return True

    def _execute_on(self, actor: Actor, run: Run) -> None:
        """Have an actor execute a run to its end.

        Raises:
            Killed: the supervisor wants that, and the worker is dead.
            RayActorError: the actor or its node is lost.
        """
        run.write_status(run.status().model_copy(update={"node": actor.node, "message": STARTING}), sync=False)
        folder = None
        if not actor.shared:
            folder = RemoteFolder(run, actor.folder, lambda method, *values: actor.call(method, run.id, *values))
            folder.send()
        try:
            self._check_killed()  # sending takes long where inputs are large or the network is slow
        except Killed:
            actor.call("drop", run.id)
            raise
        actor.call("give", run.id)
        answer: dict[str, Any] = {"news": None}
        while answer["news"] is None:
            look = actor.handle.look.remote(run.id, _LOOK_SECONDS, folder.seen if folder else {})
            try:
                while not ray.wait([look], timeout=_NAP)[0]:
                    self._check_killed()
            except Killed:
                actor.call("kill")
                if folder is not None:
                    folder.finish()
                raise
            answer = ray.get(look)
            if folder is not None:
                folder.follow(answer["files"])
        if folder is not None:
            folder.finish()
        status = run.readable_status()
        if answer["news"] == "died" and not (status is not None and status.ended):
            # before its first phase it has not redirected its output to the run's log yet
            started = status is not None and status.phase != STARTING
            log = "log.txt" if started else f"Ray's logs on {actor.node} (/tmp/ray/session_latest/logs)"
            how = f"{how_it_ended(answer['code'])}; on the node {actor.node}"
            finish_run(run, "failed", error=worker_died(how, log))

    def _begin_again(self, run: Run, actor: Actor, error: Exception) -> None:
        """Make a run ready for another actor, once.

        Raises:
            Ended: it had ended, or was lost for the second time and is finished as failed.
            Killed: the supervisor wants that.
        """
        while run.is_held():  # by a worker that has not seen yet that its node is lost
            self.say(run, "waiting for the lost node to let go of the run")
            self.check(run)
            time.sleep(_NAP)
        status = run.status()
        if status.ended:
            raise Ended
        self.check(run)
        lost = f"The run was lost with its process on the node {actor.node}, or with the node."
        if status.retried is not None:
            advice = "It is not begun a third time. Look at the nodes' memory and logs, and run it again."
            finish_run(run, "failed", error=f"{status.retried} Then again: {lost} {advice}")
            raise Ended
        clear(run.folder)
        with open(run.folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {lost} It begins again, where there is room. Ray says:\n{error}\n")
        again = Status(submitted_at=status.submitted_at, retried=lost).started()
        run.write_status(again.model_copy(update={"message": "begins again"}))

    def say(self, run: Run, message: str) -> None:
        """Put a message into the status of a run that waits."""
        status = run.status()
        if status.message != message:
            run.write_status(status.model_copy(update={"message": message}), sync=False)

    def _order(self, seconds: float | None) -> dict[str, Any] | None:
        """The next order; None if there is none after so many seconds, or the supervisor has given the place up."""
        while b"\n" not in self._unread:
            if not select.select([self._channel], [], [], seconds)[0]:
                return None
            data = b""
            with suppress(ConnectionError):
                data = self._channel.recv(65536)
            if not data:
                self._closed = True
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order


def _not_started(error: Exception) -> str:
    """Why an actor could not be started, from Ray's text of many lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "Error" in line), lines[0] if lines else type(error).__name__)
    return (
        f"A node of the Ray cluster could not start a worker: {last} Install this package there with the same "
        "Python and the same release of Ray, as docs/cluster.md says."
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
