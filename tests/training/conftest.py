"""What the tests of training share."""

from pathlib import Path

import pytest

from tests.training.toy import write_samples


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the toy network's samples; some modules have samples of their own."""
    folder = tmp_path_factory.mktemp("samples_of_noise")
    write_samples(folder / "samples")
    return folder / "samples"
