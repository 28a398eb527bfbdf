"""A recording of a person becomes a clip in which the face is made anew and every other pixel is the recording's.

    recording = Recording("talk.mp4", height=128, width=128, lead=3)
    recording.find_faces(source, limit=80, check=context.check)   # or recording.use_mask("mask.png", ...)
    pipeline.stream(..., video=recording.video, mask=recording.mask)
    recording.lay_in(frame, number)                               # into the recording's own frame, in its own size

The clip has the model's 16 frames per second: each frame is the recording's nearest in time. Where the clip is longer
the recording is played to and fro, which neither jumps as a repetition does nor freezes as a last frame does.
"""

import itertools
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from wanavatar_lab import media
from wanavatar_lab.errors import LabError
from wanavatar_lab.metrics.face_masks import dilate, feather, fill_polygon
from wanavatar_lab.metrics.face_readers import landmark_source
from wanavatar_lab.metrics.landmarks import Face, FacesIn, LandmarkSource
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.requests.sizes import cut_off
from wanavatar_lab.s2v.pipeline import FPS
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.people import say_who_may_speak
from wanavatar_lab.wan.latents import cover, picture_to_pixels

Frame = NDArray[np.uint8]
Shares = NDArray[np.float32]
Box = tuple[int, int, int, int]

# In widths of the face: how far a mask reaches beyond the outline, how much farther below it, where a jaw goes that
# opens, and how wide its soft edge is.
GROW, JAW, FEATHER = 0.02, 0.04, 0.08
# Frames before and after one whose faces its mask covers too: a latent is of four frames, and the outline of one frame
# alone would show the model how far the recorded mouth is open.
NEAR = 2
GAP = 3  # frames without a face between two that have one, through which the mask goes on: detectors miss some
FADE = 4  # frames in which a mask comes and goes with the face, so that nothing jumps
EDGE = 0.015  # of the picture's longer side: the soft edge of a mask that is given, and of what the model sees
BLOCK = 16  # frames that are read at a time; where the recording is played backwards they are in memory together


class Recording:
    """A recording that is dubbed.

    Args:
        path: a video or an animation.
        height, width: of the model's frames, which show the recording scaled to cover them.
        lead: how often the first frame is shown before the clip begins.

    Attributes:
        size: width and height of its own frames.
        fps, seconds: of the file.
        count: frames at the model's rate that are used; known when the face was found.
        seen: in how many of them the face is.
        video, mask: for the pipeline; [F, 3, height, width] and [F, 1, height, width] in [0, 1], as long as any clip.

    Raises:
        MediaError: it cannot be read.
    """

    def __init__(self, path: str, height: int, width: int, lead: int = 0) -> None:
        self.path, self.fitted, self.lead = path, (height, width), lead
        info = media.probe(path)
        if info.hdr:
            logging.getLogger(__name__).warning("%s is HDR (%s); its frames are mapped to SDR, BT.709.", path, info.hdr)
        self.size, self.fps = (info.width or 0, info.height or 0), info.fps or float(FPS)
        self.seconds = info.picture_seconds or 1 / self.fps
        self.count = self.seen = 0
        self._faces: list[Face | None] = []
        self._given: tuple[_Frames, _Frames] | None = None  # for the model and for the clip, as below
        self.video = _Windows(self._model_frame, (sys.maxsize, 3, height, width))
        self.mask = _Windows(self._model_mask, (sys.maxsize, 1, height, width))
        # the model is some frames ahead of the clip, which a thread of its own writes
        self._for_model, self._for_clip = _Frames(path), _Frames(path)
        (columns, rows), left, top = cover(self.size, height, width)
        seen = np.zeros((rows, columns), np.uint8)
        seen[top : top + height, left : left + width] = 255
        seen = np.asarray(Image.fromarray(seen).resize(self.size, Image.Resampling.NEAREST))
        self._seen_by_model = feather(seen, EDGE * max(self.size), inside=True)

    def find_faces(
        self, source: LandmarkSource, limit: int | None, check: Callable[[], None], box: Box | None = None
    ) -> Sequence[Face]:
        """Find the face of one person in every frame: of several the largest, or the one in a part of the picture.

        Args:
            source: of landmarks.
            limit: frames that are needed, at most; None for all.
            check: called for each frame, to stop.
            box: left, top, right and bottom of that part.

        Returns:
            All faces in the first frame that has some.

        Raises:
            LabError: there is no face in any frame.
        """
        within = _Within(source, box)
        with within.follow(Path(self.path)) as face_in:
            for number, frame in enumerate(media.read_frames(self.path, fps=FPS, limit=limit)):
                check()
                self._faces.append(face_in(frame, number / FPS))
        self._faces = bridged(self._faces)
        self.count, self.seen = len(self._faces), sum(face is not None for face in self._faces)
        if not self.seen:
            where = "" if box is None else " in the part that image_box names"
            raise LabError(
                f"{self.path} shows no face{where} in any of {self.count} frames, so there is nothing to dub. Give a "
                "video in which the face is seen from the front, or mark what is made anew with inpaint_mask."
            )
        return within.first

    def use_mask(self, path: str, limit: int | None, check: Callable[[], None]) -> None:
        """Make anew what is white in a video or a picture, in place of a face.

        Args:
            path: of it; where a video is shorter than the recording, its last frame is held.
            limit, check: as for `find_faces`.
        """
        for _ in media.read_frames(self.path, fps=FPS, limit=limit):
            check()
            self.count += 1
        self.seen, self._given = self.count, (_Frames(path), _Frames(path))
        self._last_given = 0
        if not self._given[0].still:
            self._last_given = sum(1 for _ in media.read_frames(path, fps=FPS, limit=self.count)) - 1

    def hidden(self) -> int:
        """In how many frames the face is outside of what the model sees, so that nothing is made anew."""
        centres = [face.centre.astype(int) for face in self._faces if face is not None]
        width, height = self.size
        return sum(not (0 <= x < width and 0 <= y < height and self._seen_by_model[y, x] > 0) for x, y in centres)

    def picture(self) -> Image.Image:
        """The first frame with the face."""
        first = next((i for i, face in enumerate(self._faces) if face is not None), 0)
        return Image.fromarray(self._for_clip.read(first))

    def place(self, number: int) -> int:
        """Which of the recording's frames the frame `number` of the clip shows, those of `lead` counted."""
        turn = max(1, 2 * self.count - 2)
        number = max(0, number - self.lead) % turn
        return min(number, turn - number)

    def lay_in(self, frame: Frame, number: int) -> Frame:
        """A frame of the model's, uint8 [height, width, 3], laid into the recording's, in the size of that.

        Args:
            number: of the frame in the clip, those of `lead` counted; in the order of the clip.
        """
        recorded = self._for_clip.read(self.place(number))
        (height, width), ((columns, rows), left, top) = self.fitted, cover(self.size, *self.fitted)
        around = ((top, rows - top - height), (left, columns - left - width), (0, 0))
        made = Image.fromarray(np.pad(frame, around, mode="edge"))
        if made.size != self.size:
            made = made.resize(self.size, Image.Resampling.BICUBIC)
        share = self.mask_of(self.place(number), in_clip=True)[..., None]
        return np.rint(recorded + share * (np.asarray(made, np.float32) - recorded)).astype(np.uint8)

    def mask_of(self, place: int, in_clip: bool = False) -> Shares:
        """How much of each pixel of a recorded frame is made anew, [H, W] from 0 to 1.

        Args:
            in_clip: for the clip that is written; else for the model. Each may ask in a thread of its own.
        """
        if self._given is not None:
            given = Image.fromarray(self._given[in_clip].read(min(place, self._last_given)))
            given = given.convert("L").resize(self.size)
            # a compressed video has no pure black and white
            hard = np.where(np.asarray(given) > 127, np.uint8(255), np.uint8(0))
            return np.minimum(feather(hard, EDGE * max(self.size), inside=True), self._seen_by_model)
        if self._faces[place] is None:
            return np.zeros(self.size[::-1], np.float32)
        near = [face for face in self._faces[max(0, place - NEAR) : place + NEAR + 1] if face is not None]
        return np.minimum(face_mask(near, self.size) * presence(self._faces, place), self._seen_by_model)

    def _model_frame(self, number: int) -> torch.Tensor:
        return picture_to_pixels(self._for_model.read(self.place(number)), *self.fitted)[0, :, 0] / 2 + 0.5

    def _model_mask(self, number: int) -> torch.Tensor:
        levels = np.rint(255 * self.mask_of(self.place(number))).astype(np.uint8)
        return picture_to_pixels(Image.fromarray(levels), *self.fitted)[0, :1, 0] / 2 + 0.5


def face_mask(faces: Sequence[Face], size: tuple[int, int]) -> Shares:
    """A soft mask of all these faces, one or the same one in several frames; [H, W] in a picture of (width, height)."""
    width = max(face.width for face in faces)
    outlines = [face.oval + np.array([0, down * face.width]) for face in faces for down in (0, JAW)]
    margin = (GROW + FEATHER) * width + 1
    # only around the faces: a frame of 4K takes a second
    points = np.concatenate(outlines)
    low = np.clip(np.floor(points.min(axis=0) - margin), 0, size).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + margin), 0, size).astype(int)
    hard = np.zeros((high - low)[::-1], np.uint8)
    for outline in outlines:
        hard |= fill_polygon(outline - low, hard.shape)
    mask = np.zeros(size[::-1], np.float32)
    if hard.any():
        mask[low[1] : high[1], low[0] : high[0]] = feather(dilate(hard, GROW * width), FEATHER * width)
    return mask


def bridged(faces: Sequence[Face | None]) -> list[Face | None]:
    """Faces of successive frames, with those between two that are at most `GAP` frames without one."""
    found = list(faces)
    known = [i for i, face in enumerate(faces) if face is not None]
    for before, after in itertools.pairwise(known):
        first, last = faces[before], faces[after]
        assert first is not None and last is not None
        for i in range(before + 1, after) if after - before <= GAP + 1 else ():
            share = (i - before) / (after - before)
            oval, lips = (
                getattr(first, name) + share * (getattr(last, name) - getattr(first, name))
                for name in ("oval", "lips_outer")
            )
            found[i] = Face(oval, lips)
    return found


def presence(faces: Sequence[Face | None], place: int) -> float:
    """How much of a frame's face is made anew, 0 to 1: less near frames without one, none in these."""
    near = [i for i in range(max(0, place - FADE), min(len(faces), place + FADE + 1)) if faces[i] is None]
    return min((abs(place - i) for i in near), default=FADE + 1) / (FADE + 1)


def open_recording(request: SpeechToVideo, size: tuple[int, int], lead: int, context: StageContext) -> Recording:
    """The video of a request, with what is made anew of it; the log says what is not as the user might expect.

    Args:
        size: width and height of the model's frames.
        lead: as in `Recording`.

    Raises:
        MediaError: it, the mask or the voice cannot be read.
        WeightsError: what finds faces lacks its weights.
        LabError: it shows no face.
    """
    recording, limit = Recording(str(request.video), size[1], size[0], lead), None
    if request.length_by == "voice":
        voice = media.read_audio(request.audio, start=request.audio_start, duration=request.audio_duration).seconds
        limit, lengths = math.ceil(voice * FPS), f"video lasts {recording.seconds:.2f} s and the voice {voice:.2f} s"
        if recording.seconds > voice + 1 / FPS:
            context.log(f"{lengths}: the rest of video is left out. length_by video keeps it.")
        elif recording.seconds < voice - 1 / FPS:
            context.log(f"{lengths}: it is played to and fro.")
        if request.num_segments:
            # and those after them by which the last ones fade
            limit = min(limit, request.num_segments * request.frames_per_segment + FADE)
    if request.inpaint_mask is not None:
        recording.use_mask(request.inpaint_mask, limit, context.check)
    else:
        source = landmark_source(request.the_profile())
        box = request.box() if request.image is None else None
        faces = recording.find_faces(source, limit, context.check, box)
        say_who_may_speak("video", faces, recording.size, context)
    if unseen := recording.count - recording.seen:
        context.log(f"No face is found in {unseen} of {recording.count} frames of video, which stay as recorded.")
    if not math.isclose(recording.fps, FPS, rel_tol=1e-3):
        context.log(f"video has {recording.fps:.4g} frames per second and the clip {FPS}: it shows the nearest ones.")
    if recording.size != size:
        own, model = ("x".join(map(str, each)) for each in (recording.size, size))
        context.log(f"The face is made at {model} and scaled to video, which has {own} pixels.")
    if share := round(100 * cut_off(recording.size, size)):
        context.log(f"The model does not see {share}% of video at its sides, which stay as recorded.")
    if hidden := recording.hidden():
        outside = f"{'x'.join(map(str, size))} shows the model the middle of video, and the face is outside of it"
        if hidden == recording.seen:
            raise LabError(f"{outside}. Set resolution to auto, which keeps the shape of video.")
        context.log(f"{outside} in {hidden} frames, which stay as recorded. resolution auto keeps the shape of video.")
    return recording


class _Within(LandmarkSource):
    """The faces of another source whose centre is in a part of the picture.

    Attributes:
        first: all of them in the first frame that has some.
    """

    def __init__(self, source: LandmarkSource, box: Box | None) -> None:
        self._source, self._box = source, box
        self.first: Sequence[Face] = ()

    def identity(self, video: Path) -> str:
        return f"{self._source.identity(video)} {self._box}"

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        with self._source.everyone(video) as faces_in:

            def within(frame: Frame, seconds: float) -> Sequence[Face]:
                faces = [face for face in faces_in(frame, seconds) if self._has(face)]
                self.first = self.first or faces
                return faces

            yield within

    def _has(self, face: Face) -> bool:
        (x, y), box = face.centre, self._box
        return box is None or (box[0] <= x < box[2] and box[1] <= y < box[3])


class _Frames:
    """The frames of a file at the model's rate by their numbers, in any order; those in order are decoded once.

    Attributes:
        still: whether it is one picture for all frames.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.still = media.probe(path).frames is None
        self._block: list[Frame] = [np.asarray(media.read_picture(path))] if self.still else []
        self._begin = 0  # number of the first one in `_block`
        self._frames: Iterator[Frame] = iter(())
        self._next = -1  # number of the next one of `_frames`; they are not open yet

    def read(self, number: int) -> Frame:
        """The frame, uint8 [H, W, 3]."""
        if self.still:
            return self._block[0]
        if not self._begin <= number < self._begin + len(self._block):
            # backwards, a block that ends with the frame
            begin = number if number >= self._begin else max(0, number - BLOCK + 1)
            if begin != self._next:
                self._frames = media.read_frames(self._path, fps=FPS, start=begin / FPS)
            many = 1 if number >= self._begin else number - begin + 1
            self._block, self._begin, self._next = list(islice(self._frames, many)), begin, begin + many
        return self._block[number - self._begin]


class _Windows:
    """The frames of a clip, made as segments need them: a slice gives [n, C, height, width]; see `wan.latents`."""

    ndim = 4

    def __init__(self, of: Callable[[int], torch.Tensor], shape: tuple[int, ...]) -> None:
        self._of, self.shape = of, shape

    def __getitem__(self, window: slice) -> torch.Tensor:
        return torch.stack([self._of(number) for number in range(window.start, window.stop)])
