"""The last prompts of a stage, below a label: searched, and put into the prompt at a click.

They are those of its runs, which the runs folder has; of a text that a click replaces, the list has it on top.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import traitlets

from wanavatar_lab import files
from wanavatar_lab.errors import RunError
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder
from wanavatar_lab.ui.language import matches, read_words, shorten
from wanavatar_lab.ui.widget import LabWidget, script, styles

if TYPE_CHECKING:
    from wanavatar_lab.ui.fields import TextControl

MOST_RUNS = 1000  # that are read: tenths of a second
MOST_SHOWN = 30
LONGEST_SHOWN = 400  # characters of a prompt; two lines are seen


class PromptHistory(LabWidget):
    """A menu of prompts.

    Args:
        control: of the prompt.
        stage: whose prompts.

    Attributes:
        prompts: those found, newest first, shortened.
    """

    _esm = script("menu", "prompt_history")
    _css = styles("menu", "prompt_history")
    WORDS = read_words(__file__, "prompt_history")

    prompts = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(self, control: "TextControl", stage: str) -> None:
        self._control, self._stage = control, stage
        self._found: list[str] = []
        self._replaced: list[str] = []  # newest first
        super().__init__()

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """List the prompts with some words, or put one of those listed into the form."""
        match content:
            case {"kind": "look", "query": str(query)}:
                known = dict.fromkeys([*self._replaced, *last_prompts(self._stage, self._control.view.name)])
                self._found = [prompt for prompt in known if matches(query, prompt)][:MOST_SHOWN]
                self.prompts = [shorten(prompt, LONGEST_SHOWN) for prompt in self._found]
            case {"kind": "use", "index": int(index)} if 0 <= index < len(self._found):
                before = self._control.value or ""
                if before.strip() and before != self._found[index]:
                    self._replaced = [before, *(each for each in self._replaced if each != before)]
                self._control.change(self._found[index])


def last_prompts(stage: str, field: str = "prompt") -> list[str]:
    """The prompts of the newest runs of a stage, newest first, each once."""
    root = runs_folder()
    names = [path.name for path in files.entries(root) if RUN_ID.fullmatch(path.name)]
    # an id begins with the time, so that the newest ones are found without reading any
    runs = [run for name in sorted(names, reverse=True) if (run := Run(root / name)).stage == stage]
    found: dict[str, None] = {}
    for run in runs[:MOST_RUNS]:
        with suppress(RunError):  # gone meanwhile, or damaged
            prompt = run.read_json("request.json").get(field)
            if isinstance(prompt, str) and prompt.strip():
                found.setdefault(prompt)
    return [*found]
