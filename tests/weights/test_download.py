"""Downloads from a hub whose connections break, which refuses, lacks files or sends damaged ones."""

import hashlib
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.weights.fake_hub import COMMIT, LARGE, Client, Hub, open_hub
from wanavatar_lab.errors import LabError
from wanavatar_lab.locks import locked
from wanavatar_lab.lora import find_adapters
from wanavatar_lab.requests.presets import shipped_values
from wanavatar_lab.weights import download, find_weights, verify, weights_of_lora
from wanavatar_lab.weights.download import LOCK, STAGING
from wanavatar_lab.weights.folders import MANIFEST

S2V, S2V_REPOSITORY = "Wan2.2-S2V-14B", "Wan-AI/Wan2.2-S2V-14B"
FLUX, FLUX_REPOSITORY = "FLUX.2-klein-9B", "black-forest-labs/FLUX.2-klein-9B"
T5 = "models_t5_umt5-xxl-enc-bf16.pth"
SIZE = 400_000  # bytes of the large file
# huggingface_hub writes blocks of 10 MB, and the block that is incomplete when a connection breaks is lost
SMALL_BLOCKS = "from huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = 8192\n"


def noise(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def published() -> dict[str, bytes]:
    """Wan-AI's folder at toy size, with what is not needed of it too."""
    shards = [f"diffusion_pytorch_model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    index = {"weight_map": {"a": shards[0], "b": shards[1]}}
    voice = "wav2vec2-large-xlsr-53-english"
    return {
        "config.json": b"{}",
        "README.md": b"not needed",
        "assets/picture.png": b"not needed",
        "diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode(),
        **{name: noise(name, 3000) for name in shards},
        "Wan2.1_VAE.pth": noise("vae", 2000),
        T5: noise("text", SIZE),
        "google/umt5-xxl/tokenizer_config.json": b"{}",
        "google/umt5-xxl/tokenizer.json": b'{"model": 1}',
        f"{voice}/config.json": b"{}",
        f"{voice}/preprocessor_config.json": b"{}",
        f"{voice}/model.safetensors": noise("voice", 2500),
        f"{voice}/flax_model.msgpack": b"not needed",
    }


WANTED = {name: data for name, data in published().items() if data != b"not needed"}


@pytest.fixture(name="hub")
def hub_fixture() -> Iterator[Hub]:
    hub, server = open_hub()
    hub.repositories[S2V_REPOSITORY] = published()
    flux = {"model_index.json": b"{}", "vae/config.json": b"{}"}
    hub.repositories[FLUX_REPOSITORY] = flux
    yield hub
    hub.let_go.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(name="client")
def client_fixture(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "weights")


def place_files(client: Client, files: dict[str, bytes], place: str = S2V) -> Path:
    """A folder that somebody has already."""
    for name, data in files.items():
        path = client.weights / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return client.weights / place


def without_manifest(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != MANIFEST}


def test_what_is_needed_arrives_and_nothing_else(hub: Hub, client: Client) -> None:
    (report,) = client.json("download", S2V)
    assert sorted(report["fetched"]) == sorted(WANTED) and report["sound"]
    assert without_manifest(client.files(S2V)) == WANTED
    manifest = json.loads((client.weights / S2V / MANIFEST).read_bytes())
    assert (manifest["repository"], manifest["revision"]) == (S2V_REPOSITORY, COMMIT)
    assert manifest["files"] == {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if name.endswith(LARGE)
        else {"size": len(data), "blob": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        for name, data in WANTED.items()
    }
    # the manifest is enough: the hub is not asked
    verified = verify(find_weights(S2V), client.weights)
    assert verified.sound and sorted(verified.right) == sorted(WANTED) and not verified.unhashed


def test_a_download_that_is_killed_keeps_complete_files(hub: Hub, client: Client) -> None:
    hub.stalls[T5] = 200_000
    process = client.start("download", S2V, before=SMALL_BLOCKS)
    assert hub.stalled.wait(60)
    process.kill()
    process.communicate()
    hub.let_go.set()
    assert list((client.weights / S2V / STAGING).rglob("*.incomplete")), "left behind by the killed process"
    assert not (client.weights / S2V / T5).exists()
    halfway = verify(find_weights(S2V), client.weights)
    assert halfway.missing == [T5] and len(halfway.right) == len(WANTED) - 1
    hub.served.clear()
    (report,) = client.json("download", S2V)
    assert report["fetched"] == [T5] and len(report["right"]) == len(WANTED) - 1
    assert without_manifest(client.files(S2V)) == WANTED, "and nothing else is left"
    assert hub.served == {T5: SIZE}


def test_a_connection_that_breaks_is_continued(hub: Hub, client: Client) -> None:
    hub.breaks[T5] = 200_000
    done = client("download", S2V, before=SMALL_BLOCKS)
    assert done.returncode == 0
    assert without_manifest(client.files(S2V)) == WANTED
    first, second = hub.starts[T5]
    assert first == 0 and 0 < second < SIZE


def test_a_disk_that_fills_up_keeps_complete_files(hub: Hub, client: Client) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    first = client("download", S2V, before=full + SMALL_BLOCKS)
    assert first.returncode == 1 and first.stdout == ""
    assert f"There is no room for {S2V} in {client.weights / S2V}" in first.stderr
    assert "WANAVATAR_WEIGHTS" in first.stderr and "Complete files are kept" in first.stderr
    assert without_manifest(client.files(S2V)) == {name: data for name, data in WANTED.items() if name != T5}
    hub.served.clear()
    assert client("download", S2V).returncode == 0
    assert without_manifest(client.files(S2V)) == WANTED and set(hub.served) == {T5}


def test_a_corrupt_file_is_named_and_alone_fetched_again(hub: Hub, client: Client) -> None:
    folder = place_files(client, WANTED)
    (folder / "Wan2.1_VAE.pth").write_bytes(b"x" * 2000)
    (folder / "google/umt5-xxl/tokenizer.json").unlink()
    # the folder has no manifest at first, so that the hub is asked for the hashes
    done = client("verify", S2V, "then", "download", S2V, "then", "verify", S2V)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"{S2V}  missing: google/umt5-xxl/tokenizer.json",
        f"{S2V}  corrupt: Wan2.1_VAE.pth",
        f"`wanavatar-lab weights download {S2V}` fetches them.",
        f"{S2V}  9 files as published ({S2V_REPOSITORY} at {COMMIT[:7]}, as the hub says)",
        f"{S2V}  fetched: google/umt5-xxl/tokenizer.json",
        f"{S2V}  fetched: Wan2.1_VAE.pth",
        f"{S2V}  9 files as published ({S2V_REPOSITORY})",
        f"{S2V}  11 files as published (the manifest of {S2V_REPOSITORY} at {COMMIT[:7]})",
    ]
    assert set(hub.served) == {"Wan2.1_VAE.pth", "google/umt5-xxl/tokenizer.json"}
    assert without_manifest(client.files(S2V)) == WANTED


def test_a_file_that_arrives_damaged_is_thrown_away(hub: Hub, client: Client) -> None:
    hub.damaged.add("Wan2.1_VAE.pth")
    done = client("download", S2V)
    assert done.returncode == 1 and "Wan2.1_VAE.pth of Wan-AI/Wan2.2-S2V-14B arrived damaged" in done.stderr
    assert not (client.weights / S2V / "Wan2.1_VAE.pth").exists()
    assert not list((client.weights / S2V).rglob("Wan2.1_VAE*"))


def test_a_gated_repository_says_how_to_be_let_in(hub: Hub, client: Client) -> None:
    hub.gated.add(FLUX_REPOSITORY)
    refused = (
        f"main(['weights', 'download', {FLUX!r}])\n"
        "import os; os.environ['HF_TOKEN'] = 'hf_somebody_else'\n"
        f"main(['weights', 'download', {FLUX!r}])\n"
        f"assert not list(__import__('pathlib').Path({str(client.weights)!r}).rglob('*'))\n"
        f"os.environ['HF_TOKEN'] = {hub.token!r}"
    )
    done = client("download", FLUX, before=refused)
    told = [line for line in done.stderr.splitlines() if line.startswith("wanavatar-lab: ")]
    for line, why in zip(told[:2], ("no token was given (401)", "the given token has no access (403)"), strict=True):
        for words in (
            why,
            "FLUX Non-Commercial License",
            f"https://huggingface.co/{FLUX_REPOSITORY},",
            f"HF_TOKEN=<token> wanavatar-lab weights download {FLUX}",
        ):
            assert words in line
    # with access the files arrive, and the toy repository lacks some that are needed
    assert len(told) == 3 and f"{FLUX_REPOSITORY} does not have scheduler/" in told[2] and done.returncode == 1
    assert set(without_manifest(client.files(FLUX))) == {"model_index.json", "vae/config.json"}


def test_a_refusal_is_told_as_what_it_is(hub: Hub, client: Client) -> None:
    i2v = "Wan-AI/Wan2.2-I2V-A14B-Diffusers"
    hub.status = {S2V_REPOSITORY: 403, FLUX_REPOSITORY: 503}
    done = client("download", S2V, "then", "download", "Wan2.2-I2V-A14B", "then", "download", FLUX)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"refused access to {S2V_REPOSITORY} (403)" in done.stderr
    assert f"has no {i2v}, or not the files that are needed (404)" in done.stderr
    assert f"answered 503 for {FLUX_REPOSITORY}" in done.stderr
    assert not list(client.weights.rglob("*"))


def test_a_401_is_told_as_what_it_is_wherever_it_comes(hub: Hub, client: Client) -> None:
    # the hub answers so to a token that has expired, and for what it does not show to everybody
    hub.listing_status = {S2V_REPOSITORY: 401, FLUX_REPOSITORY: 401}
    done = client("download", S2V, "then", "download", FLUX, HF_TOKEN="hf_expired")
    assert (done.returncode, done.stdout) == (1, "")
    ours, gated = done.stderr.splitlines()
    assert f"refused access to {S2V_REPOSITORY} (401)" in ours and "renew HF_TOKEN or unset it" in ours
    assert "the given token has no access (401)" in gated and "FLUX Non-Commercial" in gated
    hub.listing_status = {}
    hub.status = {S2V_REPOSITORY: 401}
    done = client("download", S2V)
    assert done.returncode == 1 and f"refused access to {S2V_REPOSITORY} (401)" in done.stderr
    assert not list(client.weights.rglob("*"))


def test_without_a_network_it_says_so(client: Client) -> None:
    gone = client("download", S2V, HF_ENDPOINT="http://127.0.0.1:9")
    assert gone.returncode == 1 and "http://127.0.0.1:9 cannot be reached" in gone.stderr
    assert not list(client.weights.rglob("*"))


def test_offline_nothing_is_asked_for(hub: Hub, client: Client) -> None:
    done = client("download", S2V, HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "HF_HUB_OFFLINE is set, so nothing is downloaded" in done.stderr
    assert not list(client.weights.rglob("*"))


def test_files_outside_of_the_folder_are_refused(hub: Hub, client: Client) -> None:
    outside = "google/umt5-xxl/../../../../evil.json"
    hub.repositories[S2V_REPOSITORY][outside] = b"{}"
    done = client("download", S2V)
    assert done.returncode == 1 and f"lists files outside the repository: {outside}" in done.stderr
    assert hub.served.total() == 0 and not list(client.weights.rglob("*"))


def test_progress_counts_the_bytes_that_are_fetched(hub: Hub, client: Client) -> None:
    place_files(client, {name: data for name, data in WANTED.items() if name != T5})
    hub.breaks[T5] = 200_000
    counted = f"""
from wanavatar_lab.weights import download, find_weights
steps = []
download(find_weights({S2V!r}), {str(client.weights)!r}, steps.append)
fetching = [step.done for step in steps if step.doing == "fetching"]
assert {{(step.file, step.total) for step in steps if step.doing == "fetching"}} == {{({T5!r}, {SIZE})}}, steps
assert len(fetching) > 9 and fetching == sorted(fetching) and fetching[-1] == {SIZE}, fetching
checking = [step for step in steps if step.doing == "checking"]
assert checking[-1].done == checking[-1].total - {SIZE} or checking[-1].done == checking[-1].total, checking[-1]
"""
    assert client("where", S2V, before=SMALL_BLOCKS + counted).returncode == 0


def test_a_second_download_keeps_out_of_the_way_of_the_first(tmp_path: Path) -> None:
    with locked(tmp_path / LOCK), pytest.raises(LabError, match="Another process is downloading into"):
        download(find_weights("face-landmarker"), tmp_path)


def test_a_disk_that_has_too_little_free_is_told_before_anything_is_fetched(hub: Hub, client: Client) -> None:
    small = "import collections, shutil; shutil.disk_usage = lambda _: collections.namedtuple('U', 'free')(300_000)"
    done = client("download", S2V, before=small)
    needed = sum(map(len, WANTED.values()))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        f"There is no room for {S2V} in {client.weights / S2V}: {needed / 1000:.1f} kB more are needed" in done.stderr
    )
    assert "and 300.0 kB are free" in done.stderr
    assert hub.served.total() == 0 and not list(client.weights.rglob("*"))


def test_a_disk_too_small_is_told_before_anything_is_fetched(hub: Hub, client: Client) -> None:
    client.weights.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(client.weights)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs, and mount says: {mounted.stderr.strip()}")
    try:
        done = client("download", S2V)
        assert done.returncode == 1 and "are needed, and" in done.stderr
        assert client.files(S2V) == {} and hub.served.total() == 0
    finally:
        subprocess.run(["umount", str(client.weights)], check=True)


LANDMARKS = noise("landmarks", 50_000)
LINKS = """
import dataclasses, os, pathlib
from wanavatar_lab.weights import WEIGHTS, Link
for name, file in (('face-landmarker', 'v1/a.task'), ('RealESRGAN_x2plus.pth', 'gone.pth')):
    link = Link({hub!r} + '/release/resolve/main/' + file, {sha256!r}, {size})
    WEIGHTS[name] = dataclasses.replace(WEIGHTS[name], link=link)
main(['weights', 'download', 'Face-Landmarker', 'RealESRGAN_x2plus.pth'])
path = pathlib.Path({weights!r}, 'face_landmarker.task')
assert os.listdir(path.parent) == [path.name], os.listdir(path.parent)
os.truncate(path, 49_999)
"""


def test_a_file_with_an_address_of_its_own(hub: Hub, client: Client) -> None:
    hub.repositories["release"] = {"v1/a.task": LANDMARKS}
    sha256 = hashlib.sha256(LANDMARKS).hexdigest()
    before = LINKS.format(hub=hub.endpoint, sha256=sha256, size=len(LANDMARKS), weights=str(client.weights))
    done = client("verify", "then", "download", "face-landmarker", "then", "verify", before=before)
    assert (client.weights / "face_landmarker.task").read_bytes() == LANDMARKS
    assert done.stdout.splitlines() == [
        "face-landmarker  fetched: face_landmarker.task",
        "face-landmarker  corrupt: face_landmarker.task",
        "`wanavatar-lab weights download face-landmarker` fetches it.",
        "face-landmarker  fetched: face_landmarker.task",
        "face-landmarker  1 file as published (the hash in the table of this package)",
    ]
    assert f"has no {hub.endpoint}/release/resolve/main/gone.pth" in done.stderr


def test_a_distilled_lora_arrives_under_the_name_that_the_preset_has(hub: Hub, client: Client) -> None:
    for stage in ("image_to_video", "speech_to_video"):
        (lora,) = shipped_values(stage, "four_steps", "full")["loras"]
        weights = weights_of_lora(lora["name"])
        assert weights is not None
        layout = weights.layouts[0]
        wanted = {need: noise(need, 900) for need in layout.needs}
        hub.repositories[str(layout.repository)] = {**wanted, "README.md": b"", "other_lora.safetensors": b"not needed"}
        (report,) = client.json("download", weights.name)
        assert sorted(report["fetched"]) == sorted(wanted) and report["sound"]
        assert lora["name"] in [adapter.name for adapter in find_adapters(client.weights)]
    (client.weights / "loras/mov/distilled/X/.download").mkdir(parents=True)
    (client.weights / "loras/mov/distilled/X/.download/half.safetensors").write_bytes(b"half")
    assert "half" not in [adapter.name for adapter in find_adapters(client.weights)]


def test_a_part_that_is_a_link_to_another_disk_is_completed_there(client: Client, tmp_path: Path) -> None:
    folder, elsewhere = place_files(client, {"config.json": b"{}"}), tmp_path / "disk"
    elsewhere.mkdir()
    (folder / "google").symlink_to(elsewhere)
    other_disk = f"""
import errno, os
from pathlib import Path
replace, disk = os.replace, {str(elsewhere)!r}
def refused(source, target):
    if Path(target).resolve().is_relative_to(disk) and not Path(source).resolve().is_relative_to(disk):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
    replace(source, target)
os.replace = refused
"""
    done = client("download", S2V, before=other_disk)
    assert done.returncode == 0, done.stderr
    tokenizer = {name.removeprefix("google/"): data for name, data in WANTED.items() if name.startswith("google/")}
    found = {path.relative_to(elsewhere).as_posix(): path for path in elsewhere.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == tokenizer
    assert (folder / "google").is_symlink() and verify(find_weights(S2V), client.weights).sound


@pytest.mark.parametrize("what", ["a file", "a link to a disk that is not mounted"])
def test_a_place_that_is_no_folder_is_named(what: str, client: Client, tmp_path: Path) -> None:
    client.weights.mkdir()
    place = client.weights / S2V
    place.touch() if what == "a file" else place.symlink_to(tmp_path / "unmounted")
    done = client("download", S2V)
    assert done.returncode == 1
    assert f"{place} is no folder, or a link to one that is not there. Mount its disk, move it away" in done.stderr
