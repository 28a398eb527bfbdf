"""The process of the service: uvicorn, with limits on headers, connections and times."""

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from wanavatar_lab.api.app import create_app
from wanavatar_lab.api.guard import MOST_HEADERS
from wanavatar_lab.api.options import Options
from wanavatar_lab.errors import LabError

MOST_CONNECTIONS = 1000  # of each a few kilobytes, and a megabyte while a file arrives
LONGEST_HEADERS = 10.0  # seconds until the headers of a request have arrived
LONGEST_IDLE = 30  # seconds until a connection is closed on which nothing is asked; predecessors' pages poll every 2
LONGEST_SHUTDOWN = 5  # seconds for answers that are under way, such as streams of events


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose headers do not arrive; uvicorn waits for them for ever."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:  # its body is no HTTP: nothing more is sent to it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        super().send_400_response(msg)

    def _await_headers(self) -> None:
        """Start the time when a request is awaited, and stop it when its headers are there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._late is None:
            self._late = self.loop.call_later(LONGEST_HEADERS, self._give_up)

    def _give_up(self) -> None:
        self._late = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def listen(options: Options) -> socket.socket:
    """The socket of the service.

    Raises:
        LabError: its address cannot be used.
    """
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    # TCP by name, or asyncio would not send at once what is ready, and each answer would wait for 40 ms
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # an address that was used a moment ago
        listening.bind((options.host, options.port))
        return listening
    except (OSError, OverflowError) as error:
        listening.close()
        why = error.strerror if isinstance(error, OSError) else error
        where = f"Port {options.port} of {options.host}"
        raise LabError(f"{where} cannot be listened on: {why}. Choose another one with --port.") from error


def serve(options: Options, listening: socket.socket) -> None:
    """Answer until the process is interrupted.

    Args:
        options: as `options.checked` returns them.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    # a line for each body that is none would let a client fill the log
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    config = uvicorn.Config(
        create_app(options),
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        # addresses that a client writes into a header are not believed, or limits for each client were none
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=LONGEST_IDLE,
        timeout_graceful_shutdown=LONGEST_SHUTDOWN,
        h11_max_incomplete_event_size=MOST_HEADERS,
    )
    uvicorn.Server(config).run(sockets=[listening])
