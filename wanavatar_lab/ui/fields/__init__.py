"""One control per field of a request, chosen by the hint in its description.

    control.py   what all have: label, help, error, value in the request's own terms, the language
    plain.py     text, longer text, a tick, a choice
    numbers.py   whole and broken numbers with an automatic state, the seed with its dice
    size.py      a resolution: one of the usual ones, or one's own

Those of files and of LoRAs have modules of their own, `ui.sources` and `ui.lora_cards`; `ui.controls` has the table.
"""

from wanavatar_lab.ui.fields.control import Control
from wanavatar_lab.ui.fields.numbers import NumberControl, SeedControl
from wanavatar_lab.ui.fields.plain import CheckboxControl, SelectControl, TextControl
from wanavatar_lab.ui.fields.size import SizeControl

__all__ = [
    "CheckboxControl",
    "Control",
    "NumberControl",
    "SeedControl",
    "SelectControl",
    "SizeControl",
    "TextControl",
]
