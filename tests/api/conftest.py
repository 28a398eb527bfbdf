"""One service for all tests of a file."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.service import Service
from tests.queue_for_tests import REPOSITORY, QueueUnderTest, use_queue

SHIPPED = ("text_to_speech", "upscale")  # which are small enough for tests as they are


@pytest.fixture(scope="module")
def service_queue(tmp_path_factory: pytest.TempPathFactory, every_toy: Path) -> Iterator[QueueUnderTest]:
    """The queue of the service, with toy networks."""
    root = tmp_path_factory.mktemp("service") / "root"
    (root / "data").mkdir(parents=True)
    shutil.copytree(
        REPOSITORY / "data" / "samples", root / "data" / "samples", ignore=shutil.ignore_patterns("screens")
    )
    weights = root.parent / "weights" / "pocket"
    weights.mkdir(parents=True)
    for part in [*(every_toy / "pocket").iterdir(), *(REPOSITORY / "weights" / "pocket" / name for name in SHIPPED)]:
        (weights / part.name).symlink_to(part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", str(weights.parent))
        patch.setenv("WANAVATAR_SERVER_ROOT", str(root))
        queue = QueueUnderTest(use_queue(patch, root / "runs", idle_seconds=60))
        yield queue
        if queue.runs_dir.exists():
            queue.close()


@pytest.fixture(scope="module")
def service(service_queue: QueueUnderTest) -> Iterator[Service]:
    """A service with limits that tests reach."""
    running = Service(service_queue.runs_dir.parent, "--jobs-per-client", "3", "--most-uploads", "500").start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def picture() -> bytes:
    return (REPOSITORY / "data" / "samples" / "avatar_woman.png").read_bytes()


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Half a second of speech."""
    from wanavatar_lab import media

    path = tmp_path_factory.mktemp("voice") / "voice.wav"
    spoken = media.read_audio(REPOSITORY / "data" / "samples" / "english_female.wav", duration=0.5)
    media.write_audio(path, spoken)
    return path.read_bytes()
