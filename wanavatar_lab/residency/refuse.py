"""A request that cannot fit into memory is refused before anything is loaded."""

from wanavatar_lab import media
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage
from wanavatar_lab.residency.activations import activation_bytes
from wanavatar_lab.residency.components import stage_components, weights_are_there
from wanavatar_lab.residency.here import choose_here
from wanavatar_lab.residency.works import work_of
from wanavatar_lab.settings import read_settings


def refuse_what_cannot_fit(request: Request, device: str, host_free: int | None) -> None:
    """See that some mode, or the one that is asked for, has room for the request.

    Nothing is checked where the CPU computes, for stages of others, and where the weights are missing, which loading
    says better.

    Args:
        request: of any stage.
        device: where it is to compute: cpu, cuda or cuda:<n>.
        host_free: main memory that its models may take, in bytes; None if they are loaded.

    Raises:
        RequestError: the mode that is asked for does not fit.
        LabError: no mode fits, or main memory is too small to load the weights.
        MediaError: the picture that says the size cannot be read.
        WeightsError: a weights file is damaged.
    """
    if device.partition(":")[0] == "cpu" or not isinstance(request, TextToImage | ImageToVideo | SpeechToVideo):
        return
    profile, weights_dir = request.the_profile(), read_settings().weights_dir
    if not weights_are_there(profile, request.stage, weights_dir):
        return
    components = stage_components(profile, request.stage, weights_dir, device)
    work = work_of(request, _size(request))
    offload = "auto" if isinstance(request, TextToImage) else request.offload
    whole, tiled = (activation_bytes(work, components, tiled) for tiled in (False, True))
    choose_here(components, whole, device, host_free, offload, tiled)


def _size(request: TextToImage | ImageToVideo | SpeechToVideo) -> tuple[int, int]:
    if isinstance(request, TextToImage):
        return request.size()
    return request.size(media.read_picture(request.image).size)
