"""Folders, limits on input and the worker's behaviour: one frozen object, from the environment and a settings file.

Each field is set by the variable `WANAVATAR_<FIELD>` in capitals, for example `WANAVATAR_RUNS_DIR=/data/runs`;
`WANAVATAR_WEIGHTS` is accepted for `weights_dir`, and `DISABLE_SP=1` for `WANAVATAR_GPUS=1`. Fields whose variable is
not set, or empty, are read from a file, in lower case:

    # ~/.config/wanavatar-lab/settings.toml, or the file that WANAVATAR_SETTINGS names
    weights_dir = "/data/weights"

A folder may begin with ~, the user's home.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from wanavatar_lab.errors import LabError

__all__ = ["Settings", "config_folder", "read_settings"]
# The folder of the repository: a kernel's working folder is its notebook's, so no default may depend on that. Where the
# package is installed without the repository, defaults are below the working folder.
_BESIDE = Path(__file__).resolve().parent.parent
CHECKOUT = _BESIDE if (_BESIDE / "notebooks").is_dir() else Path()


def _named(folder: object) -> object:
    if folder == "":  # Path takes it for the working folder
        raise ValueError("must be the path of a folder")
    return folder


# no shell has expanded what stands in a file, or in the environment of a container or a service
Folder = Annotated[Path, BeforeValidator(_named), AfterValidator(lambda path: Path(os.path.expanduser(path)))]
# what a pattern means
_ALLOWED = {
    "device": "auto, cpu, cuda or cuda:<n>",
    "gpus": "auto, or a number from 1 to 999",
    "workers": "auto, or a number from 1 to 99",
    "engine": "local, ray, host:port or ray://host:port",
}


class Settings(BaseModel):
    """Folders, limits on input, and how the worker behaves. Durations are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs_dir: Folder = Field(default=CHECKOUT / "runs", description="a folder per run")
    weights_dir: Folder = Field(default=CHECKOUT / "weights", description="model weights and LoRAs")
    server_root: Folder = Field(
        default=CHECKOUT,
        description="the folder that JupyterLab or Voilà serves; a page shows only files below it",
    )
    max_picture_pixels: int = Field(default=100_000_000, gt=0, description="largest picture that is read")
    max_audio_seconds: float = Field(default=3600.0, gt=0, description="longest audio that is read")
    max_video_seconds: float = Field(default=3600.0, gt=0, description="longest video that is read")
    max_video_pixels: int = Field(default=8192 * 8192, gt=0, description="largest video frame that is read")
    max_media_bytes: int = Field(default=2 * 1024**3, gt=0, description="largest file that is read")
    worker_idle_seconds: float = Field(default=600.0, gt=0, description="an idle worker ends after this")
    cancel_grace_seconds: float = Field(default=60.0, gt=0, description="a cancelled stage is killed after this")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$", description=_ALLOWED["device"])
    gpus: Annotated[str, BeforeValidator(str)] = Field(
        default="auto",
        pattern=r"^(auto|[1-9]\d{0,2})$",
        description="how many GPUs share a run, auto for as many as make it faster; on a CPU a number of processes",
    )
    workers: Annotated[str, BeforeValidator(str)] = Field(
        default="auto",
        pattern=r"^(auto|[1-9]\d?)$",
        description="how many runs are made at the same time, auto for one per GPU; one on a CPU",
    )
    engine: str = Field(
        default="local",
        pattern=r"^(local|ray|(ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):\d{1,5})$",
        description="where runs are executed: local, ray for this machine's Ray cluster, host:port or ray://host:port",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="compile the blocks of the networks; auto does on a GPU, for videos"
    )
    cache_dir: Folder = Field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wanavatar-lab",
        description="compiled kernels and their times",
    )

    def for_worker(self) -> dict[str, str]:
        """The environment variables that give a worker these settings.

        Without those that a worker does not read: changing them is no reason to replace it.
        """
        unread = {"runs_dir", "server_root", "worker_idle_seconds", "cancel_grace_seconds", "gpus", "workers", "engine"}
        return {f"WANAVATAR_{name.upper()}": str(value) for name, value in self.model_dump(exclude=unread).items()}


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the environment; those that it does not set, from the settings file.

    Raises:
        LabError: a value is not allowed, or the file cannot be read; the text names it.
    """
    file = _settings_file(environ)
    try:
        values = {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(
            f"The settings file {file} cannot be read: {error}. Correct it, or unset WANAVATAR_SETTINGS."
        ) from error
    sources = {name: f"{name} in {file}" for name in values}
    variables = {f"WANAVATAR_{name.upper()}": name for name in Settings.model_fields}
    if environ.get("DISABLE_SP", "").lower() in ("1", "true", "yes"):  # of the program before this one
        values["gpus"], sources["gpus"] = "1", "DISABLE_SP"
    for variable, name in ({"WANAVATAR_WEIGHTS": "weights_dir"} | variables).items():  # WANAVATAR_WEIGHTS_DIR wins
        if environ.get(variable):
            values[name], sources[name] = environ[variable], variable
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if name in Settings.model_fields:
            advice = "Unset it" if sources[name].startswith("WANAVATAR_") else "Remove it"
            wrong = first["msg"].removeprefix("Value error, ")
            if first["type"] == "string_pattern_mismatch":
                wrong = f"must be {_ALLOWED[name]}"
            message = f"{sources[name]} is {first['input']!r}: {wrong}. {advice} or give an allowed value."
        else:
            message = f"{file} sets {name!r}, which is not a setting; use one of {', '.join(Settings.model_fields)}."
        raise LabError(message) from error


def _settings_file(environ: Mapping[str, str]) -> Path | None:
    """The settings file: the one that a variable names must exist, the usual one need not."""
    if environ.get("WANAVATAR_SETTINGS"):
        return Path(environ["WANAVATAR_SETTINGS"])
    home = _config_home(environ)
    usual = Path(home) / "wanavatar-lab" / "settings.toml"
    # a service may have the home of another user, which it may not look into
    return usual if home and os.path.isfile(usual) else None


def config_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder of what one person has set: the settings file, and presets.

    Raises:
        LabError: the environment names none.
    """
    if not (home := _config_home(environ)):
        raise LabError("Presets are kept in a person's home folder, and there is none: set HOME or XDG_CONFIG_HOME.")
    return Path(home) / "wanavatar-lab"


def _config_home(environ: Mapping[str, str]) -> str:
    return environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")


def __dir__() -> list[str]:
    return __all__
