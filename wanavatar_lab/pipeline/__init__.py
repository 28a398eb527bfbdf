"""Stages one after another, each fed with what the ones before it made.

    links = talking_avatar(profile="pocket", prompt="a woman with red hair", motion_prompt="she nods", audio="v.wav")
    made = await follow(links, on_progress())
    hand_over(made, make_folder("demo"))
    print(report(made, measure(made[-1].path, opening)))

links.py     what a chain is made of, and the chain from a sentence and a voice to a talking avatar
follow.py    submits each link when what it needs is there, and waits
forecast.py  how long the whole will still take
lines.py     lines that say how far it is, for a log
results.py   the files that were made, put where they are wanted
report.py    what was made and what was measured, as text
"""

from wanavatar_lab.pipeline.links import Link, talking_avatar
from wanavatar_lab.pipeline.progress import Progress, Typical, on_progress
from wanavatar_lab.pipeline.report import Measures, hand_over, make_folder, measure, report
from wanavatar_lab.pipeline.run import Made, follow

__all__ = [
    "Link",
    "Made",
    "Measures",
    "Progress",
    "Typical",
    "follow",
    "hand_over",
    "make_folder",
    "measure",
    "on_progress",
    "report",
    "talking_avatar",
]
