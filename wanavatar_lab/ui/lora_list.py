"""The LoRAs under the weights folder: size, rank, base model, trigger words and preview of each, and where it fits.

loras = LoraList()
loras.on_use(lambda name, stage, profile: panels[stage].form.use_lora(name, profile))
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.field_spec import translated
from wanavatar_lab.ui.language import language, read_words, stage_name
from wanavatar_lab.ui.listing import Listing
from wanavatar_lab.ui.lora_cards import LoraEntry, LoraFolder, left_out_in_words, rank_of
from wanavatar_lab.ui.served_files import served_path
from wanavatar_lab.ui.widget import script, styles


class LoraList(Listing):
    """The LoRAs of a weights folder; `kind` and `query` as `LoraFolder.find` has them.

    Attributes:
        folder: where LoRA files are to be put.
        usable: whether a listener takes the LoRAs that are chosen.
    """

    REFRESH_SECONDS = 5.0
    _esm = script("listing", "lora_list")
    _css = styles("listing", "lora_list")
    WORDS = read_words(__file__, "listing", "lora_list")

    folder = traitlets.Unicode("").tag(sync=True)
    usable = traitlets.Bool(False).tag(sync=True)

    def __init__(self, weights_dir: Path | str | None = None) -> None:
        self._loras = LoraFolder(weights_dir)
        self._listeners: list[Callable[[str, str, str], Any]] = []
        super().__init__(folder=str(self._loras.folder / "loras"))

    def on_use(self, listener: Callable[[str, str, str], Any]) -> None:
        """Call `listener` with a name, a stage and a profile when a person wants to use that LoRA there."""
        self._listeners.append(listener)
        self.usable = True

    def _look(self) -> bool:
        changed = self._loras.refresh()
        if changed:
            self.notice = self.fault = self._loras.fault
            self.kinds = list(dict.fromkeys(each.found.kind for each in self._loras.all))
        return changed

    def _find(self) -> Sequence[LoraEntry]:
        return self._loras.find(kind=self.kind, query=self.query)

    def _act(self, content: Mapping[str, Any]) -> None:
        match content.get("kind"):
            case "look":
                self._loras.forget()
                self.refresh()
            case "use":
                stage, _slash, profile = str(content.get("place")).partition("/")
                for listener in self._listeners:
                    listener(str(content.get("name")), stage, profile)

    def _card(self, found: LoraEntry) -> dict[str, Any]:
        lora = found.found
        return {
            "id": found.id,
            **{name: getattr(lora, name) for name in ("name", "kind", "base", "bytes", "description", "problem")},
            "rank": rank_of(lora),
            "usual": "" if lora.usual_weight is None else f"{lora.usual_weight:g}",
            "left_out": left_out_in_words(lora),
            "pair": len(lora.files) > 1,
            "words": lora.trigger_words,
            "link": lora.link if lora.link.startswith(("https://", "http://")) else "",
            "picture": served_path(lora.preview),
            "version": str(found.time),
            "places": [{"place": place, "label": self._label(place)} for place in lora.fits],
        }

    def _label(self, place: str) -> str:
        """A stage and a profile that a LoRA fits, `stage/profile`, in words; of a profile only its name."""
        stage, _, profile = place.partition("/")
        name = language.of(translated(PROFILES[profile].label)).partition(":")[0].partition("：")[0]
        return language.of(self.WORDS["place"]).format(stage=stage_name(stage), profile=name)
