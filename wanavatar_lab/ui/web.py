"""The server of `make web`: Voilà, for this machine only and with a bounded number of kernels.

    python -m wanavatar_lab.ui.web notebooks/app.ipynb --template=wanavatar --Voila.ip=127.0.0.1 --port=8888

Every option of Voilà works, and voila.json is read as Voilà reads it. By itself Voilà answers under any name, so a page
of another site could reach it by DNS rebinding, and starts a kernel for every GET without a limit.
"""

import ipaddress
import socket
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import traitlets
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import HTTPError, RequestHandler
from voila.app import Voila


class WebPage(Voila):
    """Voilà that refuses requests under names that are not local, unless it listens beyond this machine."""

    allow_remote_access = traitlets.Bool(
        config=True,
        help="Answer whatever the Host header says. By default only where `ip` is not a loopback address.",
    )
    local_hostnames = traitlets.List(
        traitlets.Unicode(),
        ["localhost"],
        config=True,
        help="Names, besides loopback addresses, to answer under while `allow_remote_access` is false.",
    )
    classes: ClassVar[list[Any]]
    aliases: ClassVar[dict[str, str]] = {**Voila.aliases, "max_kernels": "PageKernels.max_kernels"}

    @traitlets.default("allow_remote_access")
    def _listens_beyond_this_machine(self) -> bool:
        if not self.ip:
            return True  # all addresses
        found = socket.getaddrinfo(self.ip, self.port, type=socket.SOCK_STREAM)
        return not all(_is_loopback(str(address[0])) for *_, address in found)

    def initialize(self, argv: list[str] | None = None) -> None:
        super().initialize(argv)
        self.voila_configuration.multi_kernel_manager_class = PageKernels

    def init_handlers(self) -> list[Any]:
        # A rule of its own, and not tornado's setting allow_remote_access, which only Jupyter's handlers look at: those
        # of static files and media do not. The first rule that matches gets the request, so none after it is unchecked.
        rules = super().init_handlers()
        return rules if self.allow_remote_access else [Rule(_OtherName(self.local_hostnames), _Refusal), *rules]

    def listen(self) -> None:
        if not self.identity_provider.token:
            self.log.warning(
                "The page asks for no token: all who reach it can start runs and see every picture and clip."
            )
        if self.allow_remote_access:
            self.log.warning(
                "It listens on %s and answers under any name: every machine that reaches this address can use it, and "
                "so can pages of other sites that are open in a browser there. IP=127.0.0.1 keeps it to this machine.",
                self.ip or "all addresses",
            )
        else:
            names = ", ".join([*self.local_hostnames, "127.0.0.1", "[::1]"])
            self.log.info("It answers on this machine only, under %s.", names)
        super().listen()


class PageKernels(AsyncMappingKernelManager):
    """The kernels behind the pages: at most `max_kernels` at once."""

    max_kernels = traitlets.Int(
        16,  # a kernel of the page takes about 70 MB when it starts, so these take about 1 GB
        min=1,
        config=True,
        help="Kernels alive at once. A page that would need one more is refused with status 503.",
    )
    silent_timeout = traitlets.Int(
        12 * 3600,  # a tab that the browser froze in the evening still works in the morning
        config=True,
        help="""Seconds without a message after which a kernel ends even if a page is connected to it; 0 for never.
        An open page sends one every few seconds, in the background at least once a minute.""",
    )

    async def start_kernel(self, **kwargs: Any) -> str:  # type: ignore[override]  # the superclass's is async as well
        """Start a kernel.

        Raises:
            HTTPError: 503, if `max_kernels` are alive, starting or ending.
        """
        # Nothing is awaited between this and the new kernel's entry among those pending, so no two take the last place.
        # One that failed to start stays there, with a task that is done.
        pending = {kernel_id for kernel_id, task in self._pending_kernels.items() if not task.done()}
        if len(self._kernels.keys() | pending) >= self.max_kernels:
            seconds = self.cull_idle_timeout + self.cull_interval
            waiting = f", or wait {seconds} s, after which the kernels of closed pages have ended,"
            raise HTTPError(
                503,
                "All %s kernels of this server are in use, one for each open page. Close a page that is not needed%s "
                "and reload. To allow more, start the server with make web ARGS=--max_kernels=%s",
                self.max_kernels,
                waiting if self.cull_idle_timeout > 0 else "",
                2 * self.max_kernels,
            )
        return await super().start_kernel(**kwargs)

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """End a kernel that is idle without a page for `cull_idle_timeout`, or with one for `silent_timeout`."""
        await super().cull_kernel_if_idle(kernel_id)
        kernel = self._kernels.get(kernel_id)
        if kernel is None or self.silent_timeout <= 0 or kernel.execution_state == "busy":
            return
        if datetime.now(UTC) - kernel.last_activity > timedelta(seconds=self.silent_timeout):
            self.log.warning("Ending kernel %s: no message for more than %s s", kernel_id, self.silent_timeout)
            await self.shutdown_kernel(kernel_id)


WebPage.classes = [*Voila.classes, PageKernels]


class _OtherName(Matcher):
    """Matches requests whose Host header is neither a loopback address nor one of `names`, whatever its port."""

    def __init__(self, names: list[str]) -> None:
        self._names = {name.lower() for name in names}

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        name = request.host_name  # without the port, in lower case
        return None if name in self._names or _is_loopback(name.removeprefix("[").removesuffix("]")) else {}


class _Refusal(RequestHandler):
    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(
            f"This server answers under local names only, such as localhost or 127.0.0.1, and not under "
            f"{self.request.host!r}. If it is meant to have that name, start it with\n\n"
            f"    make web ARGS=--WebPage.local_hostnames={self.request.host_name}\n"
        )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False  # a name


if __name__ == "__main__":
    WebPage.launch_instance()
