"""Measure how well the toy S2V talks, on held-out avatars, voices and sentences.

    python -m training.pocket.talking.evaluate --clips 24 --run-dir runs/talking
    python -m training.pocket.talking.evaluate --clips 24 --run-dir runs/talking_drawn --source drawn

The second form measures rendered ground truth passed through the VAE: it must meet every limit, else the measurement is
wrong. Figures of finished clips are kept in the run folder: run the same command again to resume. The last line is one
JSON of all figures.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from training.pocket.judge.reading import WEIGHTS, Reader
from training.pocket.speech.clips import Corpus
from training.pocket.speech.utterance import RATE
from training.pocket.talking.figures import clip_figures, silence_figures, summary, verdict
from training.pocket.talking.sources import Drawn, Pipeline, Source, Talking
from training.pocket.talking.spoken import Spoken, long_speech, silence, spoken_clips
from training.pocket.world.visemes import FPS
from wanavatar_lab import media
from wanavatar_lab.files import write_text

CONDITIONS = "clean,noisy,fast,slow,high,low"
LONG = 30 * FPS  # frames: six segments


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, required=True, help="output folder; finished clips are reused")
    parser.add_argument("--source", choices=("pipeline", "drawn"), default="pipeline")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="weights folder")
    parser.add_argument("--vae", type=Path, default=Path("weights/pocket/video_vae"), help="for --source drawn")
    parser.add_argument("--corpus", type=Path, default=Path("data/pocket/speech"))
    parser.add_argument("--judge", type=Path, default=WEIGHTS)
    parser.add_argument("--clips", type=int, default=24, help="clips per condition")
    parser.add_argument("--conditions", default=CONDITIONS, help="comma-separated, of augment.CONDITIONS and PACES")
    parser.add_argument("--seconds", type=float, default=10.0, help="maximum duration of a clip")
    parser.add_argument("--long-clips", type=int, default=2, help="clips of 30 s, to measure drift")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the profile's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(argv)

    corpus, reader = Corpus(arguments.corpus), Reader.load(arguments.judge)
    source: Source
    if arguments.source == "drawn":
        source = Drawn(arguments.vae)
    else:
        source = Pipeline(arguments.weights, device=arguments.device, steps=arguments.steps)
    run = Run(arguments.run_dir, source)
    frames = round(arguments.seconds * FPS)
    clean = spoken_clips(corpus, arguments.clips, frames=frames)

    def measured(spoken: Spoken, number: int) -> dict[str, Any]:
        other = clean[(number + 1) % len(clean)].clean
        return run.figures(spoken, number, lambda talking: clip_figures(talking, spoken, other, reader))

    conditions = {
        condition: [
            measured(spoken, number)
            for number, spoken in enumerate(spoken_clips(corpus, arguments.clips, condition, frames=frames))
        ]
        for condition in arguments.conditions.split(",")
    }
    long = [measured(long_speech(corpus, LONG, seed=seed), seed) for seed in range(arguments.long_clips)]
    silent = [run.figures(silence(frames), 0, lambda talking: silence_figures(talking, reader))]
    found = summary(conditions, long, silent)
    asked = verdict(found)
    for each in asked:
        print(f"{'met' if each['met'] else 'NOT MET':8s} {each['figure']:8.3f}  {each['limit']:13s} {each['what']}")
    result = {
        "source": arguments.source,
        **found,
        "not_met": [each["what"] for each in asked if not each["met"]],
    }
    write_text(arguments.run_dir / "figures.json", json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


class Run:
    """A run folder with a video and a JSON of figures per clip, so that an interrupted evaluation resumes."""

    def __init__(self, folder: Path, source: Source) -> None:
        """Store the clips of `source` in `folder`."""
        self.folder, self.source = folder, source
        folder.mkdir(parents=True, exist_ok=True)

    def figures(self, spoken: Spoken, number: int, measure: Callable[[Talking], dict[str, Any]]) -> dict[str, Any]:
        """Figures of the clip in which avatar `number` says `spoken`: stored ones, or generate and `measure` it."""
        kept = self.folder / f"{spoken.name}.json"
        if kept.is_file():
            return json.loads(kept.read_text())
        talking = self.source.talk(spoken, number)
        sound = media.Audio(spoken.sound[:, None], RATE)
        media.write_talking_clip(
            kept.with_suffix(".mp4"), talking.frames, fps=FPS, audio=sound, start_frame=talking.start_frame
        )
        found = measure(talking)
        write_text(kept, json.dumps(found) + "\n")
        print(f"{spoken.name}: {json.dumps(found)}", flush=True)
        return found


if __name__ == "__main__":
    main()
