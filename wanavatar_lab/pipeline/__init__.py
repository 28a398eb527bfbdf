"""A chain of stages, each of which takes files of earlier ones.

    links = talking_avatar(profile="pocket", prompt="a woman with red hair", motion_prompt="she nods", audio="v.wav")
    made = await follow(links, on_progress())
    hand_over(made, make_folder("demo"))
    print(report(made, measure(made[-1].path, opening)))

links      the links of a chain, and the chain from a sentence and a voice, or what it says, to a talking avatar
run        submits each link when its inputs exist, and waits
chain      has a process of its own do that, which outlives its client
progress   progress and the time left, as lines for a log
report     measures of the talking clip, a report as text, copies of the files

No torch is imported.
"""

from wanavatar_lab.pipeline.links import Link, TalkingAvatar, talking_avatar
from wanavatar_lab.pipeline.progress import Progress, Typical, on_progress
from wanavatar_lab.pipeline.report import hand_over, make_folder, measure, report
from wanavatar_lab.pipeline.run import Made, follow

__all__ = [
    "Link",
    "Made",
    "Progress",
    "TalkingAvatar",
    "Typical",
    "follow",
    "hand_over",
    "make_folder",
    "measure",
    "on_progress",
    "report",
    "talking_avatar",
]


def __dir__() -> list[str]:
    return __all__
