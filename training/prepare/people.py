"""Who is in a clip, and which of them it is about: the one who speaks, else the largest.

Faces are joined from frame to frame by their places. Somebody who was out of sight is known again by looks: the colours
of face, hair and clothes, and the proportions of the face.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.prepare.measures import FOLLOWS, sync_of
from wanavatar_lab.metrics import delta_e2000, srgb_to_lab
from wanavatar_lab.metrics.landmarks import REACH, Face, apart

# Looks differ by CIEDE2000 of the three colours, plus so much per unit of the proportions; at most ALIKE between
# pictures of one person in one clip. 10 is a difference that one sees at a glance.
PROPORTIONS, ALIKE = 40.0, 12.0
JUMP = 0.5  # widths by which a face moves from one frame to the next at a cut, 8 per second
BESIDE = 0.25  # share of the clip's frames for which somebody is in sight to count as one of its people
CLEARLY = 0.15  # by which the correlation with the sound of the one who speaks is above that of everybody else
LOOKED_AT = 8  # looks are those of every eighth frame


@dataclass(eq=False)
class Person:
    """Somebody in a clip.

    Attributes:
        faces: their face by the number of the frame.
        looks: of some frames; see `looks_of`.
    """

    faces: dict[int, Face] = field(default_factory=dict)
    looks: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def size(self) -> float:
        """The median width of their face, pixels."""
        return float(np.median([face.width for face in self.faces.values()]))

    @property
    def look(self) -> NDArray[np.float64]:
        """The median of their looks."""
        return np.asarray(np.median(self.looks, axis=0))

    def track(self, frames: int) -> list[Face | None]:
        """Their face in each frame, None where it is not in sight."""
        return [self.faces.get(index) for index in range(frames)]


class Crowd:
    """Collects the people of a clip, frame by frame."""

    def __init__(self) -> None:
        self.frames = 0
        self._people: list[Person] = []

    def see(self, frame: NDArray[np.uint8], faces: Sequence[Face]) -> None:
        """Add the next frame, uint8 [H, W, 3], with the faces in it."""
        pairs = sorted(
            (
                (apart(face, list(person.faces.values())[-1]), i, person)
                for i, face in enumerate(faces)
                for person in self._people
            ),
            key=lambda pair: pair[0],
        )
        taken: dict[int, Person] = {}
        for distance, i, person in pairs:
            if distance <= REACH and i not in taken and person not in taken.values():
                taken[i] = person
        for i, face in enumerate(faces):
            if i not in taken:
                taken[i] = Person()
                self._people.append(taken[i])
            person = taken[i]
            if len(person.faces) % LOOKED_AT == 0:
                person.looks.append(looks_of(frame, face))
            person.faces[self.frames] = face
        self.frames += 1

    def people(self) -> list[Person]:
        """Those in sight for a quarter of the clip, or whoever is longest; largest first."""
        joined: list[Person] = []
        for person in sorted(self._people, key=lambda each: -len(each.faces)):
            same = [
                other
                for other in joined
                if not other.faces.keys() & person.faces.keys() and unlike(other.look, person.look) <= ALIKE
            ]
            if same:
                nearest = min(same, key=lambda other: unlike(other.look, person.look))
                nearest.faces |= person.faces
                nearest.looks += person.looks
            else:
                joined.append(person)
        long = [person for person in joined if len(person.faces) >= BESIDE * self.frames] or joined[:1]
        return sorted(long, key=lambda person: -person.size)


@dataclass(frozen=True, eq=False)
class Choice:
    """The person that a clip is about.

    Attributes:
        person: None if nobody is in sight.
        people: everybody, largest first.
        by: why this one: "alone", "speaks", "looks" (like the person of the video's other clips) or "size".
    """

    person: Person | None
    people: Sequence[Person]
    by: str

    def written(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "chosen_by": self.by,
            "chosen": self.people.index(self.person) if self.person else None,
            "people": [
                {"face_width": round(each.size, 1), "frames": len(each.faces), "look": each.look.round(2).tolist()}
                for each in self.people
            ],
        }

    def said(self) -> str | None:
        """A note where there was somebody to choose from."""
        if self.person is None or self.by == "alone":
            return None
        why = {
            "speaks": "the one who speaks",
            "looks": "the one of the other clips",
            "size": "the one with the largest face",
        }
        middle = np.mean([face.centre for face in self.person.faces.values()], axis=0)
        return (
            f"{len(self.people)} people in view: {why[self.by]} is taken, at x = {middle[0]:.0f}, y = {middle[1]:.0f}"
        )


def choose(crowd: Crowd, sound: NDArray[np.float32], known: NDArray[np.float64] | None = None) -> Choice:
    """The person of a clip.

    Args:
        crowd: of all its frames.
        sound: of the clip, [T] at 16 kHz.
        known: how the person of the video's other clips looks.
    """
    people = crowd.people()
    if len(people) < 2:
        return Choice(people[0] if people else None, people, "alone")
    follows = [sync_of(opening_of(each.track(crowd.frames)), sound)[1] or 0.0 for each in people]
    best = int(np.argmax(follows))
    others = max(each for i, each in enumerate(follows) if i != best)
    if follows[best] >= FOLLOWS and follows[best] - others >= CLEARLY:
        return Choice(people[best], people, "speaks")
    if known is not None:
        return Choice(min(people, key=lambda each: unlike(each.look, known)), people, "looks")
    return Choice(people[0], people, "size")


def opening_of(track: Sequence[Face | None]) -> list[float | None]:
    """How far the mouth is open in each frame; None without a face."""
    return [None if face is None else face.opening for face in track]


def jumps(track: Sequence[Face | None]) -> list[int]:
    """The frames in which a face is so far from where it was in the frame before that there is a cut between them."""
    return [
        index
        for index, (before, now) in enumerate(pairwise(track), 1)
        if before is not None and now is not None and apart(now, before) > JUMP
    ]


def looks_of(frame: NDArray[np.uint8], face: Face) -> NDArray[np.float64]:
    """The looks of a face in a frame, [11]: Lab of the skin, of what is above it (hair) and below it (clothes), and two
    proportions: height and mouth by the face's width. A part outside of the frame has the skin's colour."""
    (left, top), (right, bottom) = face.oval.min(axis=0), face.oval.max(axis=0)
    width, height = right - left, bottom - top
    inner = (left + 0.25 * width, right - 0.25 * width)
    skin = _colour(frame, *inner, top + 0.5 * height, top + 0.65 * height, None)
    hair = _colour(frame, *inner, top - 0.25 * height, top - 0.05 * height, skin)
    clothes = _colour(frame, left, right, bottom + 0.35 * height, bottom + 0.8 * height, skin)
    mouth = float(np.ptp(face.lips_outer[:, 0]))
    return np.concatenate([srgb_to_lab(np.stack([skin, hair, clothes])).ravel(), [height / width, mouth / width]])


def unlike(one: ArrayLike, other: ArrayLike) -> float:
    """How far two looks are apart; see `ALIKE`."""
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    colours = delta_e2000(a[:9].reshape(3, 3), b[:9].reshape(3, 3)).mean()
    return float(colours + PROPORTIONS * np.abs(a[9:] - b[9:]).mean())


def usual_look(clips: Sequence[Mapping[str, Any]]) -> NDArray[np.float64] | None:
    """How the person of a video looks, from the `clip.json` of those of its clips in which there is no doubt."""
    sure = [
        clip["people"][clip["chosen"]]["look"]
        for clip in clips
        if clip.get("chosen") is not None and clip["chosen_by"] in ("alone", "speaks")
    ]
    return np.median(np.array(sure), axis=0) if sure else None


def _colour(
    frame: NDArray[np.uint8],
    left: float,
    right: float,
    top: float,
    bottom: float,
    otherwise: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """The median colour of a box, RGB in 0 to 1."""
    rows, columns = (slice(max(0, round(first)), max(0, round(last))) for first, last in ((top, bottom), (left, right)))
    part = frame[rows, columns].reshape(-1, 3)
    if len(part):
        return np.asarray(np.median(part, axis=0) / 255)
    return np.full(3, 0.5) if otherwise is None else otherwise
