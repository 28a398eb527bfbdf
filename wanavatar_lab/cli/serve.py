"""The command serve: the REST service."""

import argparse
from urllib.parse import quote

from wanavatar_lab.cli.output import say
from wanavatar_lab.errors import SUCCEEDED
from wanavatar_lab.profiles import PROFILES


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument(
        "--profile", metavar="{" + ",".join(PROFILES) + "}", default="full", help="which models (default full)"
    )
    command.add_argument(
        "--host",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1); one that other machines reach needs a token",
    )
    command.add_argument("--port", metavar="N", type=int, default=8000, help="default 8000")
    command.add_argument(
        "--allow-origin", metavar="URL", action="append", default=[], help="a site whose pages may use it (repeatable)"
    )
    command.add_argument(
        "--name", metavar="NAME", action="append", default=[], help="a host name, besides localhost, to answer under"
    )
    limits = {
        "jobs-per-client": (8, "runs of one address that have not ended"),
        "most-jobs": (100, "runs in the queue"),
    }
    limits["most-uploads"] = (1000, "files in the folder of uploads")
    for name, (usual, text) in limits.items():
        command.add_argument(f"--{name}", metavar="N", type=int, default=usual, help=f"{text} (default {usual})")
    command.add_argument("--no-page", action="store_true", help="do not start the page of all stages at /")


def serve(arguments: argparse.Namespace) -> int:
    """Answer until the process is interrupted.

    Raises:
        LabError: an option is not allowed.
    """
    # FastAPI and uvicorn take a second to import, which no other command needs
    from wanavatar_lab.api import server
    from wanavatar_lab.api.options import Options, checked

    options = checked(
        Options(
            host=arguments.host,
            port=arguments.port,
            profile=arguments.profile,
            origins=tuple(arguments.allow_origin),
            names=tuple(arguments.name),
            jobs_per_client=arguments.jobs_per_client,
            most_jobs=arguments.most_jobs,
            most_uploads=arguments.most_uploads,
            page=not arguments.no_page,
        )
    )
    listening = server.listen(options)
    host = f"[{options.host}]" if ":" in options.host else options.host
    # the port that the system has chosen, where it was asked to
    where = f"http://{'localhost' if options.local else host}:{listening.getsockname()[1]}/"
    say(f"The service, with the models {options.profile}: {where}, its endpoints: {where}docs")
    if options.token and not options.local:
        token = quote(options.token, safe="")  # a + in an address would be read as a space
        say(f"It is open to the network, so it asks for a token. In a browser: {where}?token={token}")
        say(f"In a script: Authorization: Bearer {options.token}")
    server.serve(options, listening)
    return SUCCEEDED
