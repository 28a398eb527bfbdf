"""The command weights: list, download, verify and locate model weights."""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wanavatar_lab.cli.options import add_json
from wanavatar_lab.cli.output import ProgressLine, answer, say
from wanavatar_lab.errors import FAILED, SUCCEEDED, LabError
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import WEIGHTS, Found, Report, Step, Weights, amount, download, find_weights, look, verify

MOST_SHOWN = 5  # files that a line names; --json has all

ACTIONS = {
    "list": "List weights with size, stage, licence, source and state.",
    "download": "Download missing or corrupt files; files that are complete are kept.",
    "verify": "Hash installed files and list missing or corrupt ones.",
    "where": "Show folder, layout and missing files.",
}


def add_actions(command: argparse.ArgumentParser) -> None:
    """Add the four actions with their arguments."""
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name != "list":
            many = "+" if name == "download" else "*"
            action.add_argument("names", metavar="NAME", nargs=many, help="from `wanavatar-lab weights list`")
        add_json(action)


def weights(arguments: argparse.Namespace) -> int:
    """Do one of the actions.

    Raises:
        RequestError: a name is not known.
        LabError: something could not be fetched or compared.
    """
    chosen = [find_weights(name) for name in dict.fromkeys(getattr(arguments, "names", ()))]
    folder = read_settings().weights_dir
    if arguments.action in ("list", "where"):
        found = [look(each, folder) for each in chosen or WEIGHTS.values()]
        if arguments.json:
            answer([_facts(each) for each in found])
        else:
            answer(_table(found) if arguments.action == "list" else "\n".join(map(_place, found)))
        return SUCCEEDED
    if not chosen:
        chosen = [each for each in WEIGHTS.values() if look(each, folder).state != "absent"]
    if not chosen:
        raise LabError(f"There are no weights in {folder}. Set WANAVATAR_WEIGHTS to the folder that has them.")
    reports = [_work(each, folder, arguments) for each in chosen]
    if arguments.json:
        answer([_outcome(report) for report in reports])
    return SUCCEEDED if all(report.sound for report in reports) else FAILED


def _work(which: Weights, folder: Path, arguments: argparse.Namespace) -> Report:
    line = _StepLine(which)
    try:
        report = (download if arguments.action == "download" else verify)(which, folder, line.show)
    except OSError as error:
        raise LabError(f"{error.filename or which.path(folder)} cannot be used: {error.strerror or error}.") from error
    finally:
        line.clear()
    if not arguments.json:
        answer("\n".join(_lines(report)))
    return report


def _table(found: list[Found]) -> str:
    rows = [("NAME", "SIZE", "STATE", "NEEDED BY", "LICENCE", "FROM")]
    for each in found:
        which = each.weights
        size = amount(each.size if which.ships and each.size else which.size)
        licence = which.licence + (" (gated)" if which.gated else "")
        # of an address the server and the owner: 'github.com/xinntao/Real-ESRGAN'
        source = "/".join(which.source.partition("://")[2].split("/")[:3]) or which.source
        rows.append((which.name, size, each.state, _needed_by(which), licence, source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _needed_by(which: Weights) -> str:
    if which.ships:
        return f"every stage, profile {which.needed_by[0][0]}"
    return ", ".join(f"{stage}, profile {profile}" for profile, stage in which.needed_by) or which.use


def _place(found: Found) -> str:
    layout = f", {found.layout.name} layout" if found.layout is not None and not found.weights.ships else ""
    if found.state == "absent":
        line = f"{found.weights.name}  absent: it belongs at {found.path}"
        return line + ("" if found.weights.ships else f" (`wanavatar-lab weights download {found.weights.name}`)")
    line = f"{found.weights.name}  {found.state}: {found.path}{layout}, {amount(found.size)}"
    return line + (f"; it lacks {_named(found.missing)}" if found.missing else "")


def _lines(report: Report) -> list[str]:
    """The result of a check or download, missing and corrupt files first."""
    name = report.weights.name
    lines = [f"{name}  {kind}: {file}" for kind in ("missing", "corrupt") for file in getattr(report, kind)]
    if lines and not report.weights.ships:
        lines.append(f"`wanavatar-lab weights download {name}` fetches {'them' if len(lines) > 1 else 'it'}.")
    lines += [f"{name}  fetched: {file}" for file in report.fetched]
    if report.right:
        lines.append(f"{name}  {_files(report.right)} as published ({report.against})")
    if report.unhashed:
        lines.append(f"{name}  {_files(report.unhashed)} not cut short ({report.against})")
    return lines


def _files(names: list[str]) -> str:
    return f"{len(names)} {'file' if len(names) == 1 else 'files'}"


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


def _facts(found: Found) -> dict[str, Any]:
    which = found.weights
    return {
        "name": which.name,
        "use": which.use,
        "needed_by": [{"profile": profile, "stage": stage} for profile, stage in which.needed_by],
        "source": which.source,
        "files": list(which.layout.files) if which.layout is not None else [which.place],
        "size": which.size,
        "licence": which.licence,
        "gated": which.gated,
        "ships": which.ships,
        "path": str(found.path),
        "state": found.state,
        "layout": found.layout.name if found.layout is not None else None,
        "missing": list(found.missing),
        "bytes_there": found.size,
    }


def _outcome(report: Report) -> dict[str, Any]:
    lists = {kind: getattr(report, kind) for kind in ("right", "fetched", "corrupt", "missing", "unhashed")}
    facts = {"name": report.weights.name, "path": str(report.path), "against": report.against, "sound": report.sound}
    return {**facts, **lists}


class _StepLine:
    """Progress of a check or download: a line that is redrawn on a terminal, elsewhere a line for each fetched file."""

    def __init__(self, which: Weights) -> None:
        self._which, self._line, self._began = which, ProgressLine(), time.monotonic()
        self._said = self._doing = ""
        self._done_before = 0

    def show(self, step: Step) -> None:
        """Redraw the line."""
        if step.doing != self._doing:
            self._doing, self._began, self._done_before = step.doing, time.monotonic(), step.done
        if step.doing == "fetching" and step.file != self._said and not self._line.drawable:
            self._said = step.file
            say(f"{self._which.name}: fetching {step.file}")
        seconds = time.monotonic() - self._began
        speed = f", {amount(int((step.done - self._done_before) / seconds))}/s" if seconds > 1 else ""
        share = step.done / step.total if step.total else 0.0
        done = f"{amount(step.done)} of {amount(step.total)}, {share:.0%}{speed}"
        self._line.show(f"{self._which.name}: {step.doing} {step.file}, {done}", share if step.total else None)

    def clear(self) -> None:
        """Remove the line."""
        self._line.clear()
