"""The button that extends a prompt: `wanavatar-lab extend-prompt` proposes a text, and a person uses or discards it."""

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from wanavatar_lab.errors import LabError, RequestError, WeightsError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.command import run_command
from wanavatar_lab.ui.elements import ROW, bare, small
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.widget import LabBox, start

if TYPE_CHECKING:
    from wanavatar_lab.ui.fields import TextControl

WORDS = read_words(__file__, "prompt_extension")


class PromptExtension(LabBox):
    """A button below a prompt, and the text that it proposes, with buttons to use or discard it.

    The prompt changes only when a person uses the proposal. Where the language model is missing there is its download
    command instead. With the profile pocket there is nothing: its text encoders know only the words of their training.

    Args:
        control: of the prompt.
        stage: whose prompt it is.
    """

    _task: asyncio.Task[Any] | None = None

    def __init__(self, control: "TextControl", stage: str) -> None:
        self._control, self._stage, self._running = control, stage, False
        super().__init__(layout={"display": "none"}, _dom_classes=["wl-extend"])

    def set_profile(self, profile: str) -> None:
        """Appear where prompts of the stage and the profile can be extended."""
        if not PROFILES[profile].extends_prompts:
            self.layout.display = "none"
            return
        from wanavatar_lab.stages.prompt_extension import STAGES  # a form of pocket is there sooner without it

        if self._stage in STAGES:
            if not self.children:
                self._make()
            self.layout.display = None
            self.show_words()

    def show_words(self) -> None:
        """Show what can be done now, in the language shown."""
        if not self.children:
            return
        missing = "" if self._running else _download()
        self._row.layout.display = "none" if missing else None
        self._stop.layout.display = None if self._running else "none"
        self._button.disabled = self._running
        self._button.description = WORDS.text("extending" if self._running else "extend")
        note = WORDS.text("working") if self._running else missing
        self._note.value = small(note) if note else ""  # the style sheet hides an empty one
        for widget, key in ((self._cancel, "cancel"), (self._use, "use"), (self._discard, "discard")):
            widget.description = WORDS.text(key)
        self._text.description = WORDS.text("proposal")

    def close(self) -> None:
        """Close it, and end what it runs."""
        if self._task is not None:
            self._task.cancel()
        super().close()

    def _make(self) -> None:
        self._button, self._cancel, self._use, self._discard = (bare(widgets.Button) for _ in range(4))
        self._stop = widgets.HBox([self._cancel])
        self._row = widgets.HBox([self._button, self._stop], layout=ROW)
        self._note, self._text = bare(widgets.HTML), bare(widgets.Textarea, rows=7)
        self._proposal = widgets.VBox([self._text, widgets.HBox([self._use, self._discard], layout=ROW)])
        self._propose("")
        self._button.on_click(lambda _: self._pressed())
        self._cancel.on_click(lambda _: self._task and self._task.cancel())
        self._use.on_click(lambda _: self._decided(use=True))
        self._discard.on_click(lambda _: self._decided(use=False))
        self.children = [self._row, self._note, self._proposal]

    def _pressed(self) -> None:
        if not self._running:
            self._running, self._control.error = True, ""
            self._propose("")
            self.show_words()
            self._task = start(self._extend(self._control.value or ""))

    async def _extend(self, prompt: str) -> None:
        from wanavatar_lab.stages.prompt_extension import check_arguments

        try:
            check_arguments(prompt, self._stage)  # the command takes a second to say the same
            seed = secrets.randbelow(LARGEST_SEED + 1)  # so that another press proposes another text
            found = await run_command("extend-prompt", self._stage, "-", "--seed", str(seed), stdin=prompt)
            self._propose(found["extended"])
        except RequestError as error:
            self._control.error = "; ".join(message for _, message in error.problems)
        except (LabError, OSError) as error:
            self._control.error = str(error)
        finally:
            self._running, self._task = False, None
            self.show_words()

    def _propose(self, text: str) -> None:
        """Show a text as the proposal; an empty one hides it."""
        self._text.value = text
        self._proposal.layout.display = None if text else "none"

    def _decided(self, *, use: bool) -> None:
        if use:
            self._control.change(self._text.value)
        self._propose("")


def _download() -> str:
    """How to download the language model; empty where it is installed."""
    from wanavatar_lab.stages.prompt_extension import MODEL, model_folder
    from wanavatar_lab.weights import amount

    try:
        model_folder(read_settings().weights_dir)
    except WeightsError:
        return WORDS.text("missing", size=amount(MODEL.size), command=f"wanavatar-lab weights download {MODEL.name}")
    return ""
