"""Where things lie and how large they may be: one frozen object, read once from the environment.

Each field is set by the variable `WANAVATAR_<FIELD>` in capitals, for example `WANAVATAR_RUNS_DIR=/data/runs`;
`WANAVATAR_WEIGHTS` is accepted for `weights_dir`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wanavatar_lab.errors import LabError


class Settings(BaseModel):
    """Folders, limits on input, and how the worker behaves. Durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs_dir: Path = Field(default=Path("runs"), description="a folder per run")
    weights_dir: Path = Field(default=Path("weights"), description="model weights and LoRAs")
    server_root: Path = Field(
        default=Path(__file__).resolve().parent.parent,
        description="the folder that JupyterLab or Voilà serves; what a page shows must lie below it",
    )
    max_picture_pixels: int = Field(default=100_000_000, gt=0, description="largest picture that is read")
    max_audio_seconds: float = Field(default=3600.0, gt=0, description="longest audio that is read")
    max_video_seconds: float = Field(default=3600.0, gt=0, description="longest video that is read")
    max_video_pixels: int = Field(default=8192 * 8192, gt=0, description="largest video frame that is read")
    max_media_bytes: int = Field(default=2 * 1024**3, gt=0, description="largest file that is read")
    worker_idle_seconds: float = Field(default=600.0, gt=0, description="an idle worker ends after this")
    cancel_grace_seconds: float = Field(
        default=60.0, gt=0, description="a cancelled run whose stage does not stop is killed after this"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:<n>")


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment.

    Raises:
        LabError: a variable has a value that does not fit; the text names it.
    """
    values: dict[str, str] = {}
    for name in Settings.model_fields:
        value = environ.get(f"WANAVATAR_{name.upper()}")
        if value is not None:
            values[name] = value
    if "weights_dir" not in values and "WANAVATAR_WEIGHTS" in environ:
        values["weights_dir"] = environ["WANAVATAR_WEIGHTS"]
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        variable = f"WANAVATAR_{str(first['loc'][0]).upper()}"
        raise LabError(
            f"{variable} is {first['input']!r}: {first['msg']}. Unset it or give a value that fits."
        ) from error
