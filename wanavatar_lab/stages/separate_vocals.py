"""The voice of a recording: the tool `separate_vocals`, whose model the worker keeps loaded."""

from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import SeparateVocals
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.stages import tools
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.tools.vocals import MODEL_BYTES, VocalSeparator


class Models:
    """The separator, which computes in main memory and stays there while other stages run."""

    def __init__(self) -> None:
        self.separator = VocalSeparator()

    def offload_to_host(self) -> None:
        """It takes no memory of the GPU."""

    def host_bytes(self) -> int:
        """Main memory that it takes, in bytes."""
        return MODEL_BYTES


def bytes_to_load() -> int:
    """What loading takes of main memory."""
    return MODEL_BYTES


def load(profile: Profile, device: str) -> Models:
    """The separator with its model, which is downloaded the first time.

    Raises:
        LabError: the extra or ffmpeg is not installed, or the model cannot be fetched.
    """
    return Models()


def run(request: SeparateVocals, models: Models, context: StageContext) -> list[Artifact]:
    """Separate the voice.

    Raises:
        MediaError: the recording cannot be read.
        LabError: there is no voice in it.
        Cancelled: the run was cancelled.
    """
    return tools.run(request, {"separator": models.separator}, context)
