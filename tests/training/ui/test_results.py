"""A run is read: what it came to, its plots, and its clips."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.lines import Line2D
from PIL import Image

from tests.training.ui.made_run import LINES, write_checkpoint, write_run
from training.config.training_config import BRANCHES
from training.prepare.clip_folder import FACE_MASKS, IMAGES, LIP_MASKS, SOUND, frame_name, read_clip
from training.ui.clips import sampled
from training.ui.curves import BRANCH_COLOURS, branch_plots, by_level, progress_plots, running_mean, sigma_plots
from training.ui.report import area_plot, masks_over_frames
from training.ui.results import read_results
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import Audio, write_audio
from wanavatar_lab.ui.plots import Plot, new_axes, plain_numbers, plots_html


def xs(line: Line2D) -> list[float]:
    found: list[float] = np.asarray(line.get_xdata()).tolist()
    return found


def ys(line: Line2D) -> list[float]:
    found: list[float] = np.asarray(line.get_ydata()).tolist()
    return found


def test_the_summary_has_steps_changes_and_the_lora(tmp_path: Path) -> None:
    write_run(tmp_path / "run", tmp_path / "samples")
    results = read_results(tmp_path / "run")
    assert results.changes == pytest.approx({"lip": -0.25, "background": 0.05})
    assert results.summary().splitlines() == [
        "trained: 2 steps, 2.0 s per step",
        "rank 4, alpha 2, learning rate 0.0001",
        "held-out lip error -25.0% against the base",
        "held-out background error +5.0% against the base",
        f"LoRA: {tmp_path / 'run' / 'checkpoint-2' / 'lora_weights.safetensors'}",
    ]
    newest = write_checkpoint(tmp_path / "run", 4) / "lora_weights.safetensors"
    assert read_results(tmp_path / "run").summary().splitlines()[-2:] == [
        f"LoRA: {newest}",
        f"best by validation/lip: {tmp_path / 'run' / 'checkpoint-2' / 'lora_weights.safetensors'}",
    ]


def test_the_lora_of_the_newest_checkpoint_is_offered_for_download(tmp_path: Path) -> None:
    write_run(tmp_path / "ann" / "rank_4", tmp_path / "samples")
    button = read_results(tmp_path / "ann" / "rank_4").download()
    assert button.name == "ann-rank_4-2.safetensors" and button.place.endswith("checkpoint-2/lora_weights.safetensors")


def test_where_nothing_was_trained_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Train with notebook 11"):
        read_results(tmp_path)


def test_a_config_of_another_version_is_named(tmp_path: Path) -> None:
    write_run(tmp_path, tmp_path / "samples")
    (tmp_path / "config.json").write_text('{"ranks": 1}')
    with pytest.raises(LabError, match=r"config\.json cannot be read"):
        read_results(tmp_path)


def test_the_held_out_curve_begins_at_the_base() -> None:
    _, held_out, _ = progress_plots(LINES)
    drawn = {line.get_label(): line for line in held_out.axes.lines}
    assert xs(drawn["lip"]) == [0, 2]
    assert ys(drawn["lip"]) == pytest.approx([0, -25])
    assert not progress_plots(LINES[:2])[1].axes.has_data()  # with the base alone there is nothing to compare
    # no face was found in any held-out clip
    assert "face" not in drawn and [words for words, _ in held_out.legend] == ["lips", "background"]


def test_branches_and_noise_levels_are_drawn_from_the_log() -> None:
    assert tuple(BRANCH_COLOURS) == BRANCHES
    # of a run of an earlier release, and of one that has the weighted loss too
    later = [{**line, "loss_of_branch_lip": 3.0} if line["kind"] == "train" else line for line in LINES]
    for lines, title, named, lips, full in (
        (LINES, "Error by branch", "error", [0.4, 0.2], 1),
        (later, "Loss by branch", "loss", [3.0, 3.0], 0),
    ):
        over, means = branch_plots(lines)
        drawn = {line.get_label(): ys(line) for line in over.axes.lines}
        assert over.title == title and drawn[f"{named}_of_branch_lip"] == pytest.approx(lips)
        texts = [tick.get_text() for tick in means.axes.get_xticklabels()]
        assert texts == [f"full\n{full}×", "face\n0×", "lip\n2×"]
    levels, buckets = sigma_plots(LINES)
    assert [ys(line) for line in levels.axes.lines] == [[0.8, 1.6], [0.6, 1.2]]
    assert buckets.axes.get_xticklabels()[3].get_text() == "0.75–1.00\n1×"


def test_without_a_number_a_plot_says_that_there_is_nothing_yet() -> None:
    assert plots_html(progress_plots([])).count("<p>No data yet</p>") == 3


def test_levels_are_those_of_one_part() -> None:
    assert by_level({"lip": 1.0, "lip/0.90": 2.0, "lip/0.40": 3.0, "face/0.40": 4.0}, "lip") == {0.4: 3.0, 0.9: 2.0}


def test_a_running_mean_has_fewer_at_its_beginning() -> None:
    assert running_mean(np.array([2.0, 4.0, 6.0, 8.0]), 2) == pytest.approx([2.0, 3.0, 5.0, 7.0])


def test_the_areas_of_the_masks_are_drawn_over_the_seconds(tmp_path: Path) -> None:
    white, black = np.full((10, 10), 255, np.uint8), np.zeros((10, 10), np.uint8)
    lips = black.copy()
    lips[:2, :5] = 255
    for frame in range(16):
        for kind, picture in ((IMAGES, np.zeros((10, 10, 3), np.uint8)), (FACE_MASKS, white), (LIP_MASKS, lips)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / kind / frame_name(frame))
    write_audio(tmp_path / SOUND, Audio(np.zeros((16_000, 1), np.float32), 16_000))
    area = area_plot(read_clip(tmp_path))
    face, lip = area.axes.lines
    assert set(ys(face)) == {100.0} and set(ys(lip)) == {10.0}
    assert xs(lip)[-1] == pytest.approx(15 / 16)
    # without a record, masks that are all white are those of no face
    assert [words for words, _ in area.legend] == ["face", "lips", "no face: excluded from both masks"]
    shown = masks_over_frames(tmp_path).data
    assert shown.count('<img src="data:image/webp;base64,') == 8 and 'alt="Frame at 0.9 s with its masks"' in shown


def test_a_plot_has_the_colours_and_the_words_of_the_page() -> None:
    plot = Plot(new_axes(), 'The "loss"', "of <a> step", "step", [("lips", "#d55e00")])
    plot.axes.plot([1, 2], [3, 4], color="#d55e00")
    html = plots_html([plot])
    drawing = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + len("</svg>")])
    assert drawing.attrib["aria-label"] == 'The "loss": of <a> step; step'
    assert "currentColor" in html and "#d55e00" in html
    # a style sheet within would be the whole page's, and a size its own
    assert "<style" not in html and "width" not in drawing.attrib
    assert "of &lt;a&gt; step" in html and "⬤</span> lips" in html


def test_a_logarithmic_axis_has_numbers_however_narrow_it_is() -> None:
    def numbers(low: float, high: float) -> list[str]:
        axes = new_axes()
        axes.set_yscale("log")
        plain_numbers(axes)
        axes.set_ylim(low, high)
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.draw_without_rendering()
        labels = [*axes.yaxis.get_majorticklabels(), *axes.yaxis.get_minorticklabels()]
        return sorted(
            {label.get_text() for label in labels if low <= label.get_position()[1] <= high} - {""}, key=float
        )

    assert numbers(0.05, 0.3) == ["0.05", "0.1", "0.2"]
    assert numbers(0.22, 0.48) == ["0.3", "0.4"]
    assert numbers(0.01, 100) == ["0.01", "0.1", "1", "10", "100"]


def test_clips_are_found_by_sample_and_step(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("true-a-first", "000000-a-first", "000060-a-first", "true-b", ".000080-a-first"):
        (folder / f"{name}.mp4").touch()
    (found,) = sampled(tmp_path)
    assert (found.name, found.true) == ("a-first", folder / "true-a-first.mp4")
    assert found.made == {0: folder / "000000-a-first.mp4", 60: folder / "000060-a-first.mp4"}
