"""What is dropped on a panel or a gallery: a file of another program, or a result that is dragged within the page.

zone = DropZone("wl-panel", form.takes | SAYS_HOW, partial(take_into, form))

Dropped on a field, a file is that field's. Anywhere else on a panel, a file that its stage has made brings its settings
back, and any other goes into the field for its kind; on a gallery, the panel of its stage is opened with its settings.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import LabError, MediaError, RequestError, RunError
from wanavatar_lab.files import remove_if_possible
from wanavatar_lab.requests import fields_of
from wanavatar_lab.runs.made_with import MadeWith, find_inputs, read_settings
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.uploads import Incoming
from wanavatar_lab.ui.file_field import samples_folder
from wanavatar_lab.ui.form import Form, fields_for
from wanavatar_lab.ui.language import read_words, stage_name
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.served_files import uploads_folder
from wanavatar_lab.ui.uploads import Upload
from wanavatar_lab.ui.widget import script, start, styles

SAYS_HOW = frozenset((".png", ".jpg", ".jpeg", ".webp", ".mp4"))  # files that hold the settings they were made with
SETTINGS = ":settings"  # in place of a field: of the file only its settings are wanted
WORDS = read_words(__file__, "drop_zone")

Take = Callable[[Path, str], Coroutine[Any, Any, str]]


class DropZone(Upload):
    """Takes what is dropped anywhere on the element around it; it is visible only while it has something to say.

    Args:
        around: a class of that element.
        accept: suffixes of the files that are taken.
        take: receives each file, and the field that it was dropped on or `SETTINGS`. It returns what to say; an upload
            of which only the settings were read, so that there is something to say, is removed.

    Attributes:
        said: what came of the last file.
    """

    _esm = script("dragging", "upload")
    _css = styles("upload")
    WORDS = read_words(__file__, "uploads", "drop_zone")

    said = traitlets.Unicode("").tag(sync=True)

    def __init__(self, around: str, accept: Iterable[str], take: Take) -> None:
        self._take_file = take
        super().__init__(accept=",".join(accept), around=around)

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Take the next message of an upload, or a result: `{kind: "result", run, file, field}`."""
        match content:
            case {"kind": "result", "run": str(run_id), "file": str(file)}:
                self.said = self.error = ""
                try:
                    run = Run.open(run_id)
                    made = [run.path(artifact) for artifact in run.status().artifacts if artifact.file == file]
                    if not made:
                        raise RunError(f"The run {run_id} has no result.")
                    start(self._given(made[0], str(content.get("field") or "")))
                except (LabError, OSError) as error:
                    self.error = in_language(str(error))
            case {"kind": "dismiss"}:
                self.said = self.error = ""
            case _:
                if content.get("kind") == "begin":
                    self.said = ""
                super().receive(content, buffers)

    async def _finish(self, incoming: Incoming) -> None:
        await super()._finish(incoming)
        if self.path:
            await self._given(Path(self.path), self.field)

    async def _given(self, path: Path, field: str) -> None:
        uploaded = path.parent == self.folder
        try:
            self.said = await self._take_file(path, field)
        except (LabError, OSError) as error:
            self.error = in_language(str(error).replace(str(path), path.name))
        if uploaded and (self.said or self.error):
            remove_if_possible(path)


async def take_into(form: Form, path: Path, field: str, elsewhere: Callable[[str], Form] | None = None) -> str:
    """Put a file into a form, or the settings that it was made with.

    Args:
        field: that it was dropped on; empty if on none, `SETTINGS` if only its settings are wanted.
        elsewhere: opens the form of another stage; None where there is no other form.

    Returns:
        What was restored; "" where a field took the file.

    Raises:
        MediaError: only its settings could be used, and it does not say any.
        LabError: it was made by another stage, whose form is not here.
    """
    names = fields_for(form.request_class, path) if field != SETTINGS else []
    if field in names:
        form.take(path, field)
        return ""
    unknown: MediaError | None = None
    try:
        made = await asyncio.to_thread(read_settings, path)
    except MediaError as error:
        unknown = error
    if names and (unknown is not None or made.stage != form.request_class.stage):
        form.take(path)
        return ""
    if unknown is not None:
        raise unknown
    if made.stage == form.request_class.stage:
        return await restore(form, made, path)
    if elsewhere is None:
        raise LabError(
            f"{path.name} was made by {stage_name(made.stage)}. Drop it on the form of that stage, or on the gallery."
        )
    return await restore(elsewhere(made.stage), made, path)


async def restore(form: Form, made: MadeWith, path: Path) -> str:
    """Show the settings that a file was made with in the form of its stage; returns what to say.

    Input files are found again where the same bytes are on this machine; of others, their fields say the name.
    """
    found = await asyncio.to_thread(find_inputs, made, (uploads_folder(), samples_folder()))
    views = fields_of(form.request_class)
    given = {name for name, view in views.items() if view.is_file and made.request.get(name)}
    values = {name: value for name, value in made.request.items() if name != "stage" and name not in given}
    problems = form.restore(values | {name: str(place) for name, place in found.items() if name in given})
    lost = {name: Path(str(made.request[name])).name for name in views if name in given - found.keys()}
    if lost:
        missing = [(name, f"{file} is not on this machine; choose it again") for name, file in lost.items()]
        form.show(RequestError([*problems, *missing]))
    return WORDS.text("restored", name=path.name)
