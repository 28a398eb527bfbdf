"""What every test runs under: no network, few threads, the same examples each time, and skips that say why."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from wanavatar_lab.requests import STAGE_REQUESTS

# set here and not in the Makefile, so that a single test run by hand is held to the same
for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(variable, "1")
# the suite runs a process per core, and torch would give each of them every core
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# a shell that starts the suite in the background has it ignore Ctrl-C, and so would the processes that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests see the pocket models and nothing else that a user keeps in this checkout or in the environment: no LoRAs, no
# runs, no settings. A test that wants other folders sets them itself.
_PRIVATE = Path(tempfile.mkdtemp(prefix="wanavatar-tests-"))
atexit.register(shutil.rmtree, _PRIVATE, ignore_errors=True)
(_PRIVATE / "weights").mkdir()
(_PRIVATE / "weights" / "pocket").symlink_to(Path(__file__).resolve().parents[1] / "weights" / "pocket")
for variable in [name for name in os.environ if name.startswith("WANAVATAR_")]:
    del os.environ[variable]
os.environ["WANAVATAR_WEIGHTS"] = str(_PRIVATE / "weights")
os.environ["WANAVATAR_RUNS_DIR"] = str(_PRIVATE / "runs")
os.environ["XDG_CONFIG_HOME"] = str(_PRIVATE / "config")

# a busy machine draws examples slowly, which says nothing about the code under test
settings.register_profile("lab", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lab")

SHIPPED = dict(STAGE_REQUESTS)

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(autouse=True, scope="module")
def only_the_stages_that_ship() -> Iterator[None]:
    """Tests that make a stage of their own known must not leave it to the modules after them."""
    yield
    STAGE_REQUESTS.clear()
    STAGE_REQUESTS.update(SHIPPED)


@pytest.fixture(scope="session")
def every_toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder with toy networks of every stage that draws; nothing is written to it."""
    from tests import toy_flux, toys  # most tests need no network
    from tests.toy_i2v import i2v_pipeline
    from training.pocket.saving import save_all_parts

    folder = tmp_path_factory.mktemp("weights")
    toys.pocket_weights(folder)
    toy_flux.pocket_weights(folder)
    save_all_parts(i2v_pipeline(), "image_to_video", folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, every_toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for weights, LoRAs and runs, with the networks of `every_toy`; many modules have one of their own."""
    (tmp_path / "pocket").symlink_to(every_toy / "pocket")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


@pytest.fixture(scope="session")
def face_landmarker() -> Path:
    """MediaPipe's face landmarker; where set-up could not fetch it, the test is skipped with the reason."""
    from tests.real_face import require_face_landmarker

    return require_face_landmarker()


@pytest.fixture
def face_weights(
    face_landmarker: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A weights folder with the pocket models and the face landmarker, for this test's commands and processes."""
    folder = tmp_path_factory.mktemp("weights")
    (folder / "pocket").symlink_to(_PRIVATE / "weights" / "pocket")
    (folder / "face_landmarker.task").symlink_to(face_landmarker)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(folder))
    return folder


@cache
def gpus_missing(wanted: int) -> str | None:
    import torch

    found = torch.cuda.device_count()
    if found >= wanted:
        return None
    return f"needs {wanted} NVIDIA GPU{'s' if wanted > 1 else ''}, and torch sees {found} (make test hides them)"


@cache
def chromium_missing() -> str | None:
    if any(shutil.which(name) for name in CHROMIUM):
        return None
    return f"needs Chromium, and PATH has none of {', '.join(CHROMIUM)}; on Debian: apt-get install chromium"


# marker → why its tests cannot run here, or None
NEEDS: dict[str, Callable[[], str | None]] = {
    "gpu": lambda: gpus_missing(1),
    "multi_gpu": lambda: gpus_missing(2),
    "chromium": chromium_missing,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--need", choices=sorted(NEEDS), help="end with an error where this is missing, instead of skips")


def pytest_configure(config: pytest.Config) -> None:
    needed = config.getoption("--need")
    missing = NEEDS[needed]() if needed else None
    if missing:
        raise pytest.UsageError(f"--need {needed}: {missing}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for marker, missing in NEEDS.items():
            # asked only for tests that carry the marker: looking for a GPU imports torch, which takes seconds
            reason = missing() if item.get_closest_marker(marker) else None
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Leave torch, diffusers and the collected tests, which stay until the end, out of every later collection.

    With them, each `gc.collect()` of a worker's cache of models takes half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Leave out, too, what a file of tests has imported or cached; its fixtures are gone by then."""
    yield
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()
