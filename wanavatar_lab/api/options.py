"""What `wanavatar-lab serve` sets."""

import ipaddress
import os
import secrets
import socket
from dataclasses import dataclass, field

from wanavatar_lab.errors import LabError
from wanavatar_lab.profiles import PROFILES

TOKEN_VARIABLE = "WANAVATAR_TOKEN"  # of the environment, since arguments of a process are seen by all users
_SHORTEST_TOKEN = 16  # characters: what cannot be guessed over a network


@dataclass(frozen=True)
class Options:
    """How a service answers, and how much it takes.

    Attributes:
        host: the address to listen on; beyond this machine a token is asked for.
        profile: which models its runs have.
        token: asked of every request; empty asks for none.
        origins: pages of other sites that may use it, such as https://example.org.
        names: host names to answer under, besides loopback addresses and `host`.
        jobs_per_client: runs of one address that have not ended.
        most_jobs: runs in the queue, whoever submitted them.
        most_uploads: files in the folder of uploads.
        page: start the page of all stages when / is first opened.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    profile: str = "full"
    token: str = field(default="", repr=False)
    origins: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    jobs_per_client: int = 8
    most_jobs: int = 100
    most_uploads: int = 1000
    page: bool = True

    @property
    def local(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)


def checked(options: Options) -> Options:
    """The options with the token that they need.

    Raises:
        LabError: a value is not allowed.
    """
    if options.profile not in PROFILES:
        raise LabError(f"There is no profile {options.profile!r}; there are {', '.join(PROFILES)}.")
    for name in ("jobs_per_client", "most_jobs", "most_uploads"):
        if getattr(options, name) < 1:
            raise LabError(f"--{name.replace('_', '-')} must be 1 or more (got {getattr(options, name)}).")
    for origin in options.origins:
        scheme, _, rest = origin.partition("://")
        if scheme not in ("http", "https") or not rest or "/" in rest or "*" in rest:
            raise LabError(f"{origin!r} is no origin; give scheme, name and port, such as https://example.org:8443.")
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and (len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise LabError(
            f"{TOKEN_VARIABLE} must be at least {_SHORTEST_TOKEN} printable ASCII characters without spaces."
        )
    if not token and not options.local:
        token = secrets.token_urlsafe(32)
    return Options(**{**vars(options), "token": token})


def is_loopback(host: str) -> bool:
    """Whether an address, or every address of a name, is of this machine alone."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError of what cannot be a name, such as ".local"
        raise LabError(f"{host!r} is no address of this machine: {error}.") from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
