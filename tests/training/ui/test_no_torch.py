"""A kernel shows and publishes trainings without torch, whose import takes ten seconds and hundreds of megabytes."""

import os
import subprocess
import sys
from pathlib import Path

from tests.queue_for_tests import REPOSITORY
from tests.training.toy import config_of, write_samples
from tests.training.ui.made_run import write_run

IMPORTS = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "torch" in sys.modules:
        sys.exit(f"importing {module} imports torch")
"""
SHOWS = """
import sys
from pathlib import Path
from training.config import TrainingConfig
from training.ui.curves import branch_plots, progress_plots, sigma_plots
from training.ui.person import Person, config_for
from wanavatar_lab.ui.plots import shown
from training.ui.results import read_results
from training.ui.training_card import TrainingCard
from training.ui.tryout import TryOut
from training.ui.publish import publish
from wanavatar_lab.requests import SpeechToVideo

config = TrainingConfig.model_validate_json(Path(sys.argv[1]).read_text())
assert config_for(Person(config.run.parent), "full").profile == "full"
card = TrainingCard(config)
assert card.step == 2
results = read_results(config.run)
assert results.summary().startswith("trained: 2 steps")
shown([*progress_plots(results.lines), *branch_plots(results.lines), *sigma_plots(results.lines)])
assert publish(config.run, "ann").rank == 4
panel = TryOut(config.run, SpeechToVideo(profile="pocket", image="a.png", audio="a.wav"), name="ann")
assert "effective scale" in panel.summary()
assert "torch" not in sys.modules
"""


def python(code: str, *arguments: str, **environment: str) -> None:
    line = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(
        line, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_module_imports_torch() -> None:
    folder = REPOSITORY / "training" / "ui"
    modules = [f"training.ui.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    assert len(modules) > 10
    # what its processes import before they work counts too: a preparation loads no network
    python(IMPORTS, "training.ui", *modules, "training.prepare.__main__")


def test_a_run_is_shown_and_published_without_torch(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_train_steps=9)
    write_samples(config.samples)
    write_run(config.run, config.samples)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    python(SHOWS, str(tmp_path / "config.json"), WANAVATAR_WEIGHTS=str(tmp_path / "weights"))
