"""A file that arrives in pieces: whole and sound under its name, or nowhere."""

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.media.odd_files import BOTH, ODD, SHORT
from tests.media.samples import mux
from tests.ui import made_runs
from tests.ui.looking import until
from wanavatar_lab import media
from wanavatar_lab.api.outputs import TYPES
from wanavatar_lab.errors import DiskFull, LabError, MediaError
from wanavatar_lab.runs.uploads import Incoming, free_name, safe_name
from wanavatar_lab.ui.served_files import KINDS
from wanavatar_lab.ui.uploads import Upload

WAV = frozenset({".wav"})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return made_runs.sound(tmp_path_factory.mktemp("sound") / "voice.wav", seconds=0.5).read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".names.lock")


class Sender:
    """The page's side of the protocol."""

    def __init__(self, upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
        self.upload, self.answers = upload, list[dict[str, Any]]()
        monkeypatch.setattr(upload, "send", lambda content, *_: self.answers.append(content))

    def say(self, *pieces: bytes, **content: Any) -> dict[str, Any]:
        self.upload.receive(content, [memoryview(piece) for piece in pieces])
        return self.answers[-1]

    def send(self, name: str, data: bytes, step: int = 5000) -> dict[str, Any]:
        answer = self.say(kind="begin", id="1", name=name, size=len(data))
        while answer["kind"] == "ack" and answer["offset"] < len(data):
            offset = answer["offset"]
            answer = self.say(data[offset : offset + step], kind="chunk", id="1", offset=offset)
        return answer


@pytest.fixture
def sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sender:
    return Sender(Upload(accept=".wav,.png", folder=tmp_path / "uploads"), monkeypatch)


def test_a_file_arrives_identical(sender: Sender, sound: bytes) -> None:
    seen: list[str] = []
    sender.upload.observe(lambda change: seen.append(change.new), "path")
    assert sender.send("내 목소리.WAV", sound) == {"kind": "ack", "id": "1", "offset": len(sound)}
    path = Path(sender.upload.path)
    assert seen == [str(path)]
    assert (path.name, path.read_bytes()) == ("내 목소리.wav", sound)
    assert (sender.upload.state, sender.upload.error) == ("done", "")
    assert names(path.parent) == [path.name]


def test_a_second_of_that_name_gets_a_number(sender: Sender, sound: bytes) -> None:
    sender.send("voice.wav", sound)
    sender.send("voice.wav", sound)
    assert names(sender.upload.folder) == ["voice-2.wav", "voice.wav"]


def test_the_check_does_not_block_the_loop(sender: Sender, sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    original, checked = media.probe, threading.Event()

    def waiting(path: Path) -> Any:
        assert checked.wait(20)
        return original(path)

    monkeypatch.setattr(media, "probe", waiting)

    async def send() -> None:
        sender.send("voice.wav", sound)
        await asyncio.sleep(0)
        assert sender.upload.state == "checking"
        checked.set()  # which only a loop that runs comes to
        await until(lambda: sender.upload.state != "checking")

    asyncio.run(send())
    assert sender.upload.path


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("voice.mp3", b"x", "ends in .mp3; give a file that ends in .png, .wav"),
        ("voice", b"x", "ends in nothing"),
        ("voice.wav", b"no sound at all" * 100, "voice.wav"),
        ("empty.wav", b"", "has 0 bytes"),
    ],
)
def test_what_is_not_accepted_leaves_nothing(sender: Sender, name: str, data: bytes, said: str) -> None:
    assert sender.send(name, data)["kind"] == "refused"
    assert (sender.upload.state, sender.upload.path) == ("failed", "")
    assert said in sender.upload.error
    assert ".upload-" not in sender.upload.error
    assert not sender.upload.folder.exists() or names(sender.upload.folder) == []


def test_a_sound_that_is_called_a_picture_is_refused(sender: Sender, sound: bytes) -> None:
    assert sender.send("face.png", sound)["kind"] == "refused"
    assert "face.png" in sender.upload.error and names(sender.upload.folder) == []


def test_a_picture_is_shown(sender: Sender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    sender.send("face.png", made_runs.picture(tmp_path / "f.png", side=32).read_bytes())
    assert sender.upload.preview == "uploads/face.png"


@pytest.mark.parametrize("suffix", [".heic", ".heif"])
def test_the_photo_of_a_phone_arrives(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (64, 48), "teal").save(tmp_path / "photo.heic")
    sender = Sender(Upload(accept=".jpg,.heic,.heif", folder=tmp_path / "uploads"), monkeypatch)
    assert sender.send(f"photo{suffix}", (tmp_path / "photo.heic").read_bytes())["kind"] == "ack"
    assert (sender.upload.state, sender.upload.error) == ("done", "")
    assert names(sender.upload.folder) == [f"photo{suffix}"]
    assert media.probe(sender.upload.path).kind == "picture"


def test_cancelling_leaves_nothing_and_another_can_follow(sender: Sender, sound: bytes) -> None:
    sender.say(kind="begin", id="1", name="voice.wav", size=len(sound))
    sender.say(sound[:5000], kind="chunk", id="1", offset=0)
    assert len(names(sender.upload.folder)) == 1
    sender.say(kind="cancel", id="1")
    assert (sender.upload.state, names(sender.upload.folder)) == ("cancelled", [])
    assert sender.say(sound[5000:], kind="chunk", id="1", offset=5000)["kind"] == "refused"
    assert sender.send("voice.wav", sound)["kind"] == "ack"


def test_closing_the_widget_leaves_nothing(sender: Sender, sound: bytes) -> None:
    sender.say(kind="begin", id="1", name="voice.wav", size=len(sound))
    sender.upload.close()
    assert names(sender.upload.folder) == []


def test_an_unknown_suffix_is_refused_at_once() -> None:
    with pytest.raises(LabError, match=r"'.exe'.*it knows"):
        Upload(accept=".png,.exe")


@settings(max_examples=60)
@given(data=st.data())
def test_pieces_in_order_arrive_and_others_are_refused(
    tmp_path_factory: pytest.TempPathFactory, sound: bytes, data: st.DataObject
) -> None:
    folder, size = tmp_path_factory.mktemp("pieces"), len(sound)
    incoming = Incoming(folder, "voice.wav", size, WAV)
    cuts = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=6)))
    for begin, end in zip([0, *cuts], [*cuts, size], strict=True):
        offset, length = data.draw(st.tuples(st.integers(-1, size + 1), st.integers(0, size + 1)))
        if offset != begin or not 1 <= length <= size - begin:
            with pytest.raises(LabError, match="does not follow the"):
                incoming.write(offset, bytes(length))
        assert incoming.write(begin, sound[begin:end]) == end
        if end < size and data.draw(st.integers(0, 9)) == 0:
            with pytest.raises(LabError, match="is not complete"):
                incoming.finish()
            assert names(folder) == []
            return
    assert incoming.finish().read_bytes() == sound
    assert names(folder) == ["voice.wav"]


@given(st.text(max_size=400))
def test_every_name_becomes_a_safe_one(name: str) -> None:
    safe = safe_name(name)
    assert safe and not safe.startswith((".", " ")) and len(safe.encode()) <= 200
    assert not set(safe) & set("/\\\0\n?#%&'\"$`<>|:*")
    assert safe_name(safe) == safe


def test_safe_names_keep_what_is_harmless() -> None:
    assert safe_name("C:\\photos\\My Face (1).PNG") == "My Face (1).png"
    assert safe_name("../../etc/passwd") == "passwd"
    assert safe_name("얼굴 사진.jpg") == "얼굴 사진.jpg"
    assert safe_name("") == "file"


def test_free_name(tmp_path: Path) -> None:
    for name in ("a.png", "a-2.png"):
        (tmp_path / name).touch()
    assert free_name(tmp_path, "a.png").name == "a-3.png"


def test_what_a_dead_kernel_left_is_removed_and_what_still_arrives_is_not(tmp_path: Path, sound: bytes) -> None:
    left = tmp_path / ".upload-0123456789ab.wav"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 3600,) * 2)
    going = Incoming(tmp_path, "voice.wav", len(sound), WAV)
    assert not left.exists()
    (arriving,) = tmp_path.glob(".upload-*")
    os.utime(arriving, (time.time() - 3600,) * 2)
    other = Incoming(tmp_path, "other.wav", len(sound), WAV)
    assert arriving.exists()
    going.abandon()
    other.abandon()
    assert names(tmp_path) == []


def test_a_file_larger_than_the_disk_is_refused_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_MAX_MEDIA_BYTES", str(10**18))
    with pytest.raises(DiskFull, match="no room for the 1,000,000,000,000,000 bytes"):
        Incoming(tmp_path, "long.wav", 10**15, WAV)
    assert names(tmp_path) == []


def test_a_video_without_sound_is_no_recording(tmp_path: Path) -> None:
    data = made_runs.clip(tmp_path / "clip.mp4", 0.5, side=32).read_bytes()
    incoming = Incoming(tmp_path / "up", "clip.wav", len(data), WAV)
    incoming.write(0, data)
    with pytest.raises(MediaError, match=r"clip\.wav is named like an audio file and is a video"):
        incoming.finish()


def test_every_suffix_has_a_kind_and_a_media_type() -> None:
    assert set(KINDS.values()) == {"picture", "audio", "video"}
    assert TYPES.keys() == KINDS.keys()


@pytest.mark.parametrize("name", ["call.amr", "call.3gp", "pcm_s16be.aiff", "a.m4v", "a.avif"])
def test_files_of_phones_and_browsers_arrive(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith(".avif"):
        Image.new("RGB", (32, 24)).save(path)
    else:
        mux(path, **SHORT | ({"container": "mp4", **BOTH} if name == "a.m4v" else ODD[name]))
    data = path.read_bytes()
    incoming = Incoming(tmp_path / "up", name, len(data), frozenset(KINDS))
    incoming.write(0, data)
    assert incoming.finish().read_bytes() == data


@pytest.mark.parametrize("alike", [True, False], ids=["the same name", "different names"])
def test_many_that_arrive_at_once_all_arrive(tmp_path: Path, sound: bytes, alike: bool) -> None:
    start = threading.Barrier(40)

    def send(number: int) -> Path:
        start.wait(30)
        incoming = Incoming(tmp_path, "voice.wav" if alike else f"voice {number}.wav", len(sound), WAV)
        for offset in range(0, len(sound), 20_000):
            incoming.write(offset, sound[offset : offset + 20_000])
        return incoming.finish()

    with ThreadPoolExecutor(40) as pool:
        paths = list(pool.map(send, range(40)))
    assert len(set(paths)) == 40
    assert names(tmp_path) == sorted(path.name for path in paths)
    assert all(path.read_bytes() == sound for path in paths)


def test_pairs_of_one_name_both_arrive(tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "probe", lambda path: media.MediaInfo("audio"))  # what is in it is not the question

    def send(_: int) -> Path:
        incoming = Incoming(folder, "voice.wav", 4, WAV)
        incoming.write(0, b"some")
        return incoming.finish()

    with ThreadPoolExecutor(2) as pool:
        for pair in range(400):
            folder = tmp_path / str(pair)
            assert [path.name for path in sorted(pool.map(send, range(2)))] == ["voice-2.wav", "voice.wav"]


def test_a_file_of_unknown_size_arrives(tmp_path: Path, sound: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service receives one: the sender of a form does not say how long a part of it is."""
    incoming = Incoming(tmp_path, "voice.wav", None, WAV)
    assert incoming.write(incoming.write(0, sound[:100]), sound[100:]) == len(sound)
    assert incoming.finish().read_bytes() == sound
    with pytest.raises(LabError, match="is not complete: 0 bytes"):
        Incoming(tmp_path, "none.wav", None, WAV).finish()
    monkeypatch.setenv("WANAVATAR_MAX_MEDIA_BYTES", str(len(sound) - 1))
    too_long = Incoming(tmp_path, "long.wav", None, WAV)
    with pytest.raises(LabError, match="WANAVATAR_MAX_MEDIA_BYTES"):
        too_long.write(too_long.write(0, sound[:100]), sound[100:])
    too_long.abandon()
    assert [path.name for path in tmp_path.glob("*.wav")] == ["voice.wav"]
