"""Weights on disk: the table, the layouts, what a folder lacks, and the error of a run without weights."""

import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from wanavatar_lab.cli import main
from wanavatar_lab.errors import RequestError, WeightsError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, Tool
from wanavatar_lab.weights import WEIGHTS, amount, append_download_command, find_weights, look, missing_weights, verify
from wanavatar_lab.weights.folders import MANIFEST, files_in, fingerprint

STAGES = [stage for stage, request in STAGE_REQUESTS.items() if not issubclass(request, Tool)]

ROOT = Path(__file__).resolve().parents[2]


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def made(pattern: str) -> str:
    """A file name that a pattern of the table fits."""
    return pattern.split(" | ")[0].replace("*", "")


# --- the table


def test_every_stage_of_every_profile_is_in_the_table() -> None:
    listed = {need for weights in WEIGHTS.values() for need in weights.needed_by}
    assert listed == {(profile, stage) for profile in PROFILES for stage in STAGES}
    for profile, stage in listed:
        (weights,) = [weights for weights in WEIGHTS.values() if (profile, stage) in weights.needed_by]
        place = PROFILES[profile].locations[stage]
        assert place == weights.place or place.startswith(f"{weights.place}/")


def test_what_ships_is_all_that_its_profile_has() -> None:
    profile, (layout,) = PROFILES["pocket"], WEIGHTS["pocket"].layouts
    places = [*profile.locations.values(), *(place for parts in profile.shared.values() for place in parts.values())]
    assert {f"pocket/{need}" for need in layout.needs} == set(places)


def test_what_is_fetched_covers_what_is_needed() -> None:
    for weights in WEIGHTS.values():
        for layout in weights.layouts:
            if layout.repository is not None:
                for need in layout.needs:
                    names = [made(part) for part in need.split(" | ")]
                    assert any(fnmatchcase(name, kind) for name in names for kind in layout.files), need


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("FLUX", "did you mean 'FLUX.2-klein-9B'?"),
        ("wan2.2-s2v-14", "did you mean 'Wan2.2-S2V-14B'?"),
        ("RealESRGAN_x4plus.pth", "did you mean 'RealESRGAN_x2plus.pth'?"),
        ("s2v", "did you mean 'Wan2.2-S2V-14B'?"),
        ("14b", "did you mean 'Wan2.2-I2V-A14B' or 'Wan2.2-S2V-14B' or 'Wan2.2-I2V-A14B-4steps' or "),
        ("", "there are pocket, FLUX.2-klein-9B"),
        ("sdxl", "there are pocket, FLUX.2-klein-9B"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name: str, advice: str) -> None:
    with pytest.raises(RequestError) as caught:
        find_weights(name)
    assert str(caught.value).startswith(f"weights: {name!r} is not known; {advice}")
    assert main(["weights", "where", name]) == 2


def test_capitals_do_not_matter() -> None:
    assert find_weights("flux.2-KLEIN-9b").name == "FLUX.2-klein-9B"


def test_sizes_as_people_read_them() -> None:
    assert [amount(size) for size in (45_700_000_000, 3_758_596, 1200, 12, 0, None)] == [
        *("45.7 GB", "3.8 MB", "1.2 kB", "12 bytes", "0 bytes", "size unknown"),
    ]


# --- what is on disk


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        (weights.name, layout.name)
        for weights in WEIGHTS.values()
        if weights.layouts
        for layout in weights.layouts
        if layout.marker
    ],
)
def test_every_layout_is_recognised_and_what_it_lacks_is_named(tmp_path: Path, name: str, layout: str) -> None:
    weights = find_weights(name)
    folder = weights.path(tmp_path)
    (expected,) = [known for known in weights.layouts if known.name == layout]
    assert look(weights, tmp_path).state == "absent"
    fill(folder, *map(made, expected.needs))
    found = look(weights, tmp_path)
    assert (found.state, found.layout, found.missing, found.path) == ("present", expected, (), folder)
    assert found.size == len([path for path in folder.rglob("*") if path.is_file()])
    (folder / made(expected.needs[-1])).unlink()
    assert look(weights, tmp_path).missing == (expected.needs[-1],)


def test_shards_are_counted_by_their_index_and_by_their_names(tmp_path: Path) -> None:
    weights = find_weights("Wan2.2-I2V-A14B")
    folder = weights.path(tmp_path)
    fill(folder, *(made(need) for need in weights.layouts[0].needs if "safetensors" not in need))
    stem = "diffusion_pytorch_model"
    index = {"weight_map": {"a": f"{stem}-00001-of-00003.safetensors", "b": f"{stem}-00002-of-00003.safetensors"}}
    fill(folder, f"high_noise_model/{stem}-00001-of-00003.safetensors", f"low_noise_model/{stem}.safetensors")
    (folder / "high_noise_model" / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    for damaged in ('{"weight_map": {"a": 5}}', "["):
        (folder / "low_noise_model" / f"{stem}.safetensors.index.json").write_text(damaged)
        assert look(weights, tmp_path).missing[-1] == f"low_noise_model/{stem}.safetensors.index.json (it is damaged)"
    found = look(weights, tmp_path)
    assert found.layout is not None and found.layout.name == "Wan-AI" and found.state == "incomplete"
    assert found.missing == (
        f"high_noise_model/{stem}-00002-of-00003.safetensors",
        f"high_noise_model/{stem}-00003-of-00003.safetensors",
        f"low_noise_model/{stem}.safetensors.index.json (it is damaged)",
    )


def test_a_part_that_is_a_link_to_a_folder_is_looked_into(tmp_path: Path) -> None:
    model, shared = tmp_path / "model", tmp_path / "other" / "text_encoder"
    fill(tmp_path, "model/transformer/a.safetensors", "other/text_encoder/model.safetensors")
    (model / "text_encoder").symlink_to(shared)
    before = fingerprint(model)
    assert list(before) == ["text_encoder/model.safetensors", "transformer/a.safetensors"]
    assert [path.name for path in files_in(model)] == ["model.safetensors", "a.safetensors"]
    (shared / "model.safetensors").write_bytes(b"another")
    changed = {name for name, print_ in fingerprint(model).items() if before[name] != print_}
    assert changed == {"text_encoder/model.safetensors"}


@contextmanager
def as_another_user() -> Iterator[None]:
    """Without the rights of root, if this process has them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_of_another_user_breaks_no_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as place:  # not in `tmp_path`, which is closed to others as a whole
        folder = Path(place) / "Wan2.2-S2V-14B"
        fill(folder, "config.json")
        Path(place).chmod(0o755)
        folder.chmod(0)
        monkeypatch.setenv("WANAVATAR_WEIGHTS", place)
        with as_another_user():
            assert main(["weights", "where"]) == main(["weights", "list"]) == main(["loras"]) == 0
            assert main("plan speech-to-video --gpu-memory 80 --host-memory 128".split()) == 1
            assert main(["weights", "verify"]) == 1
        folder.chmod(0o700)
    told = capsys.readouterr()
    assert f"incomplete: {folder}, 0 bytes; it lacks the permission to read it" in told.out
    assert f"{folder} may not be read by this user. Change its permissions" in told.err
    assert f"{folder / MANIFEST} cannot be used: Permission denied." in told.err


def test_a_folder_of_no_layout_lacks_what_a_download_would_bring(tmp_path: Path) -> None:
    fill(tmp_path / "Wan2.2-S2V-14B", "notes.txt")
    found = look(find_weights("Wan2.2-S2V-14B"), tmp_path)
    assert found.layout is None and found.state == "incomplete" and "config.json" in found.missing
    (tmp_path / "face_landmarker.task").mkdir()
    assert look(find_weights("face-landmarker"), tmp_path).state == "incomplete"


def test_what_ships_is_there() -> None:
    assert look(find_weights("pocket"), ROOT / "weights").state == "present"


def test_where_and_list_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    fill(tmp_path / "Wan2.2-S2V-14B", "transformer/config.json")
    assert main(["weights", "where", "Wan2.2-S2V-14B", "FLUX.2-klein-9B"]) == 0
    s2v, flux = capsys.readouterr().out.splitlines()
    assert s2v.startswith(f"Wan2.2-S2V-14B  incomplete: {tmp_path}/Wan2.2-S2V-14B, diffusers layout, 1 bytes; it lacks")
    assert "transformer/diffusion_pytorch_model*.safetensors, vae/config.json" in s2v and "more" in s2v
    assert flux == (
        f"FLUX.2-klein-9B  absent: it belongs at {tmp_path}/FLUX.2-klein-9B "
        "(`wanavatar-lab weights download FLUX.2-klein-9B`)"
    )
    assert main(["weights", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["FLUX.2-klein-9B"]["gated"] and listed["FLUX.2-klein-9B"]["state"] == "absent"
    assert listed["Wan2.2-S2V-14B"]["layout"] == "diffusers" and listed["Wan2.2-S2V-14B"]["missing"]
    assert listed["face-landmarker"]["needed_by"] == []
    assert listed["FLUX.2-klein-9B"]["source"] == "black-forest-labs/FLUX.2-klein-9B"
    assert listed["FLUX.2-klein-9B"]["licence"] == "FLUX Non-Commercial License"
    for name, entry in listed.items():
        weights = find_weights(name)
        assert entry["files"] and (entry["size"] or weights.ships)
        assert {(need["profile"], need["stage"]) for need in entry["needed_by"]} == {*weights.needed_by}
    assert main(["weights", "list"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "NAME SIZE STATE NEEDED BY LICENCE FROM"
    assert (
        "FLUX.2-klein-9B 34.7 GB absent text_to_image, profile full FLUX Non-Commercial License (gated) "
        "black-forest-labs/FLUX.2-klein-9B"
    ) in lines
    assert main(["weights", "verify", "face-landmarker"]) == 1


@pytest.mark.parametrize("said_by", ["the environment", "a settings file"])
def test_weights_are_looked_for_where_they_are_said_to_lie(
    said_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "elsewhere", "RealESRGAN_x2plus.pth")
    if said_by == "the environment":
        monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "elsewhere"))
    else:
        (tmp_path / "mine.toml").write_text(f'weights_dir = "{tmp_path}/elsewhere"\n')
        monkeypatch.delenv("WANAVATAR_WEIGHTS", raising=False)
        monkeypatch.setenv("WANAVATAR_SETTINGS", str(tmp_path / "mine.toml"))
    assert main(["weights", "where", "RealESRGAN_x2plus.pth"]) == 0
    assert f"present: {tmp_path}/elsewhere/RealESRGAN_x2plus.pth" in capsys.readouterr().out


def test_a_folder_whose_publisher_is_unknown_is_looked_over_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    weights = find_weights("Wan2.2-S2V-14B")
    layout = next(layout for layout in weights.layouts if layout.repository is None)
    fill(weights.path(tmp_path), *map(made, layout.needs))
    header = json.dumps({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    whole = struct.pack("<Q", len(header)) + header + b"abcd"
    for path in weights.path(tmp_path).rglob("*.safetensors"):
        path.write_bytes(whole)
    report = verify(weights, tmp_path)
    assert report.sound and report.unhashed and not report.right
    cut = weights.path(tmp_path) / "vae/diffusion_pytorch_model.safetensors"
    cut.write_bytes(whole[:-1])
    assert verify(weights, tmp_path).corrupt == ["vae/diffusion_pytorch_model.safetensors"]
    assert main(["weights", "verify"]) == 1
    cut.unlink()
    assert main(["weights", "download", "Wan2.2-S2V-14B"]) == 1
    said = capsys.readouterr().err
    assert "which several people have published, and lacks vae/diffusion_pytorch_model*.safetensors" in said


# --- what a run says


def test_what_a_loader_says_keeps_its_words(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught, append_download_command(tmp_path / "Wan2.2-S2V-14B"):
        raise WeightsError("shard 3 is damaged.")
    assert str(caught.value) == (
        "shard 3 is damaged. `wanavatar-lab weights download Wan2.2-S2V-14B` gets what is missing (45.7 GB in all)."
    )
    with pytest.raises(WeightsError, match=r"^of my own$"), append_download_command(tmp_path / "mine"):
        raise WeightsError("of my own")
    assert "download" not in str(missing_weights("dance", tmp_path / "mine"))
    assert "https://huggingface.co/black-forest-labs" in str(
        missing_weights("text_to_image", tmp_path / "FLUX.2-klein-9B")
    )


def test_the_list_needs_neither_torch_nor_the_hub() -> None:
    code = (
        "import sys; from wanavatar_lab.cli import main\n"
        "code = main(['weights', 'list'])\n"
        "print(code, sorted({'torch', 'numpy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
