"""How runs and files show themselves in a notebook and in a terminal, and a run's progress in both.

    ProgressView("Speech to video").show(status)     # a bar that lives in a notebook, lines of text elsewhere

What a notebook keeps needs neither this machine nor a server: see `wanavatar_lab.media.embed`.
"""

import mimetypes
import sys
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanavatar_lab.errors import LabError, MediaError, RunError
from wanavatar_lab.files import printable
from wanavatar_lab.requests.display import ACCENT, FAINT, FRAME
from wanavatar_lab.runs.status import Artifact, Status

if TYPE_CHECKING:
    from wanavatar_lab.runs.run import Run

LINES = 5  # of text for each phase of a run: one whenever another fifth of the run is done
STATE_COLOURS = {"succeeded": "#2e7d32", "failed": "#c62828", "cancelled": "#8a6d00"}


# --- in words


def clock(seconds: float) -> str:
    """A duration as 0:42, 12:05 or 1:02:09."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def progress_line(status: Status) -> str:
    """One line with a run's progress, or with how it ended."""
    if status.state == "queued":
        place = f", position {status.queue_place}" if status.queue_place is not None else ""
        return f"queued{place}{', the queue is paused' if status.queue_paused else ''}"
    if status.ended:
        took = ""
        if status.started_at is not None and status.finished_at is not None:
            took = f" in {clock(status.finished_at - status.started_at)}"
        why = f": {status.error}" if status.error else ""
        return f"{status.state}{took}{why}"
    parts = [status.phase or status.state]
    if status.segment is not None and status.segments is not None:
        parts.append(f"segment {status.segment} of {status.segments}")
    if status.step is not None and status.steps is not None:
        parts.append(f"step {status.step} of {status.steps}")
    parts.append(f"{status.fraction:.0%}")
    if status.eta_seconds is not None:
        parts.append(f"{clock(status.eta_seconds)} left")
    return ", ".join(parts)


def status_text(status: Status, title: str = "") -> str:
    """The progress, the seed, and the files that were made, a line each."""
    lines = [f"{title}: {progress_line(status)}" if title else progress_line(status)]
    lines += [f"  seed {status.seed}"] if status.seed is not None else []
    return "\n".join([*lines, *(f"  {printable(artifact.path)}" for artifact in status.artifacts)])


def title_of(run: "Run") -> str:
    """The name of a run's stage; of one that is not known here, its identifier."""
    try:
        return run.request().labels["en"]
    except LabError:
        return run.stage


# --- in a notebook


def status_html(status: Status, title: str = "", note: str = "") -> str:
    """The state, a bar, and a line with the progress; `note` stands beside the title."""
    colour = STATE_COLOURS.get(status.state, ACCENT)
    done = f"width: {status.fraction:.1%}; height: 100%; background: {colour}"
    seed = f' <span style="{FAINT}">seed {status.seed}</span>' if status.seed is not None else ""
    head = f'<b>{escape(title)}</b> <span style="{FAINT}">{escape(note)}</span><br>' if title else ""
    return (
        f'<div style="max-width: 40em; margin: 4px 0">{head}<span style="color: {colour}; font-weight: 600">'
        f"{escape(status.state)}</span> {escape(progress_line(status).removeprefix(status.state).strip())}{seed}"
        f'<div role="progressbar" aria-valuenow="{status.fraction:.0%}" style="height: 6px; margin-top: 4px; border: '
        f'{FRAME}; border-radius: 3px; overflow: hidden"><div style="{done}"></div></div></div>'
    )


def run_bundle(run: "Run", look: Callable[[], Status]) -> dict[str, str]:
    """A run in each format, by MIME type; of one that is gone or damaged, as `look` finds it, only that it is."""
    try:
        status = look()
    except RunError as error:
        return {"text/plain": str(error)}
    text = status_text(status, f"{title_of(run)} {run.id}")
    return {"text/plain": text, "text/html": run_html(run, status)}


def run_html(run: "Run", status: Status) -> str:
    """A run: its state, the files that it made, and its request, folded."""
    try:
        request = f"<details><summary>Request</summary>{run.request()._repr_mimebundle_()['text/html']}</details>"
    except LabError as error:  # of a stage that is not registered here, or damaged
        request = f"<p>{escape(str(error))}</p>"
    return f"{status_html(status, title_of(run), run.id)}{artifacts_html(status)}{request}"


def artifacts_html(status: Status) -> str:
    """What was made, beside each other where there is room."""
    made = "".join(map(artifact_html, status.artifacts))
    return f'<div style="display: flex; flex-wrap: wrap; gap: 12px">{made}</div>' if made else ""


def artifact_html(artifact: Artifact) -> str:
    """The picture, or a player with a poster, and below it the name, with the path as its tooltip, and the facts."""
    path, shown, width = Path(artifact.path), "", "auto"
    try:
        facts = _size_in_words(path.stat().st_size)
        if (mimetypes.guess_type(path.name)[0] or "").startswith(("image/", "video/", "audio/")):
            from wanavatar_lab.media.embed import embed  # slow to import, and most clients show nothing

            media = embed(path)
            shown, facts = media.html, f"{media.facts} · {facts}"
            width = f"{media.width}px" if media.width else width
            if media.info.kind == "video" and not media.whole:
                facts += " · the first frame; the clip is not embedded"
    except (MediaError, OSError) as error:
        facts = str(error)
    role = f", {artifact.role}" if artifact.role else ""
    place = escape(printable(str(path)), quote=True)
    named = f'{escape(artifact.kind + role)} <code title="{place}">{escape(printable(path.name))}</code>'
    caption = f"{named} {escape(printable(facts))}"
    # as wide as what is shown, however long the text: else two results do not fit beside each other
    figure = f'<figure style="margin: 4px 0; max-width: 100%; width: {width}; overflow-wrap: anywhere">'
    return f'{figure}{shown}<figcaption style="{FAINT}">{caption}</figcaption></figure>'


def _size_in_words(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def in_live_notebook() -> bool:
    """Whether a person looks at the output of the running cell; false under papermill, nbconvert and in a terminal.

    A page that people type into takes input (`allow_stdin` of Jupyter's messaging); a program that executes a notebook
    does not.
    """
    kernel = _kernel()
    return kernel is not None and bool(kernel.get_parent("shell").get("content", {}).get("allow_stdin"))


def _kernel() -> Any:
    ipython = sys.modules.get("IPython")  # which is loaded wherever a cell is executed
    return getattr(ipython.get_ipython(), "kernel", None) if ipython else None


class LiveOutput:
    """One output of a cell, which is replaced as what it shows changes."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown: Mapping[str, str] = {}

    def show(self, bundle: Mapping[str, str]) -> None:
        """Show a representation in each format, by MIME type; the same again sends nothing."""
        from IPython.display import display  # only in a kernel, which has it

        if bundle == self._shown:
            return
        self._shown = bundle
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class ProgressView:
    """A run's progress: where a person looks at a notebook a bar that lives, elsewhere lines of text.

    Lines go to the output of the cell, where they are kept, or to standard error outside of notebooks.
    """

    def __init__(self, title: str, note: str = "") -> None:
        self._title, self._note = title, note
        self._output = LiveOutput() if in_live_notebook() else None
        self._said: Sequence[Any] = ()

    def show(self, status: Status) -> None:
        """Show the status now."""
        if self._output is not None:
            text = f"{self._title}: {progress_line(status)}"
            self._output.show({"text/plain": text, "text/html": status_html(status, self._title, self._note)})
            return
        place = status.queue_place, status.queue_paused
        said = (status.state, status.phase, status.segment, int(status.fraction * LINES), place)
        if said != self._said:
            self._said = said
            stream = sys.stderr if _kernel() is None else sys.stdout
            stream.write(f"{self._title}: {progress_line(status)}\n")
            stream.flush()
