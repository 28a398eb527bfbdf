"""A Ray cluster of several processes on this machine, whose processes are all gone when the tests are over."""

import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.queue_for_tests import REPOSITORY, eventually, is_alive


class ClusterUnderTest:
    """A head, which is a node as well, and further nodes; remembers all of their processes."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.nodes: list[Any] = [cluster.head_node]
        self.seen: set[int] = set()

    @property
    def address(self) -> str:
        """For WANAVATAR_ENGINE."""
        return str(self._cluster.address)

    def processes(self, node: Any) -> list[psutil.Process]:
        """Its raylet and all that it has started, workers of actors among them."""
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        return [raylet, *raylet.children(recursive=True)]

    def node_of(self, worker: int) -> Any:
        """The node on which a process runs."""
        (node,) = (node for node in self.nodes if worker in {each.pid for each in self.processes(node)})
        return node

    def kill(self, node: Any) -> None:
        """What a machine does that loses its power: all of its processes are gone at once."""
        processes = self.processes(node)
        self.seen |= {process.pid for process in processes}
        for process in processes:
            process.suspend()  # so that none sees another's end
        for process in processes:
            process.kill()
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        """End all; what Ray leaves is killed, such as workers that just start and look for their raylet for long."""
        for node in self.nodes:
            for started in (each.process.pid for kind in node.all_processes.values() for each in kind):
                with suppress(psutil.NoSuchProcess):  # it has ended by itself
                    process = psutil.Process(started)
                    self.seen |= {started, *(child.pid for child in process.children(recursive=True))}
        self._cluster.shutdown()
        for pid in filter(is_alive, self.seen):
            with suppress(psutil.NoSuchProcess):  # it has ended at this moment
                psutil.Process(pid).kill()
        eventually(lambda: not any(is_alive(pid) for pid in self.seen))


@contextmanager
def _environment() -> Iterator[str]:
    """What processes of Ray begin with; gives the folder of its files."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as folder:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)  # short, since the names of sockets in it are limited
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else Ray replaces 127.0.0.1 by an outer address
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        patch.setenv("RAY_gcs_server_port_wait_time_s", "120")  # 30 seconds are few for a busy machine
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)  # else each of a dozen processes compiles Ray
        yield folder


@contextmanager
def ray_cluster(*cpus: int) -> Iterator[ClusterUnderTest]:
    """A cluster of nodes with so many CPUs, the first its head, which listens on the loopback address only."""
    with _environment():
        from ray.cluster_utils import Cluster

        usual: dict[str, Any] = dict(
            include_dashboard=False, object_store_memory=80 * 2**20, node_ip_address="127.0.0.1"
        )
        made = Cluster(initialize_head=True, head_node_args={**usual, "num_cpus": cpus[0]})
        cluster = ClusterUnderTest(made)
        try:
            cluster.nodes += [made.add_node(**usual, num_cpus=number) for number in cpus[1:]]
            yield cluster
        finally:
            cluster.close()


@contextmanager
def ray_head() -> Iterator[str]:
    """The address of a cluster of one node with two CPUs, as `ray start` makes it in the environment of the caller."""
    with _environment() as folder:
        port = closed_port()
        words = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        words += ["--include-dashboard=false", f"--object-store-memory={80 * 2**20}", f"--temp-dir={folder}"]
        words += [f"--ray-client-server-port={closed_port()}"]  # its usual one may be another cluster's
        head = psutil.Popen([sys.executable, "-m", "ray.scripts.scripts", *words])
        try:
            eventually(lambda: head.poll() is not None or _listens(port), 120)
            assert head.poll() is None, "Ray ended by itself; what it printed is above"
            yield f"127.0.0.1:{port}"
        finally:
            seen = [head, *head.children(recursive=True)]
            head.terminate()
            _, alive = psutil.wait_procs(seen, timeout=20)
            for process in alive:
                process.kill()


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def closed_port() -> int:
    """A port of the loopback address on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port
