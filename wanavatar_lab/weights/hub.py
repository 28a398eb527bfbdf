"""The Hugging Face hub and other servers: what a repository holds, and one file, begun or continued.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables count as they do for huggingface_hub, which does the
transfer. What goes wrong is told as what it is.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from wanavatar_lab.errors import DiskFull, LabError, WeightsError
from wanavatar_lab.files import OUT_OF_ROOM
from wanavatar_lab.weights.entries import Layout, Weights
from wanavatar_lab.weights.folders import PARTIAL
from wanavatar_lab.weights.hashes import OnBytes, Published, is_as_published

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

Value = TypeVar("Value")

_TRANSPORT = {"TransportError", "DecodingError", "TooManyRedirects", "InvalidURL", "ConnectionError"}
_GOES_ON = "What has arrived is kept, and the same command goes on from there."


@dataclass(frozen=True)
class Repository:
    """What the hub says of a repository: the commit, and the files that are wanted of it, the smallest first."""

    name: str
    revision: str
    files: tuple[Published, ...]


def ask_hub(weights: Weights, layout: Layout) -> Repository:
    """Ask the hub what is in the repository of a layout.

    Raises:
        LabError: it cannot be reached, refuses, or has no such repository; the text says which.
    """
    from huggingface_hub import HfApi

    name = layout.repository
    assert name is not None, "the table names no repository of this layout"
    info = _told(weights, name, lambda: HfApi().model_info(name, files_metadata=True))
    wanted = [file for file in info.siblings or () if any(fnmatchcase(file.rfilename, kind) for kind in layout.files)]
    outside = [file.rfilename for file in wanted if not _stays_inside(file.rfilename)]
    fault = ""
    if not wanted or info.sha is None:
        fault = "none of the files that are needed"
    elif outside:
        fault = f"files that lie elsewhere: {', '.join(outside)}"
    elif any(file.size is None for file in wanted):
        fault = "files without their sizes"
    if fault:
        raise WeightsError(f"{_endpoint()} lists {fault} in {name}. Set HF_ENDPOINT to the hub or a mirror to trust.")
    files = [_published(file) for file in wanted]
    return Repository(name, str(info.sha), tuple(sorted(files, key=lambda file: (file.size, file.name))))


def fetch(weights: Weights, repository: Repository | None, file: Published, target: Path, on_bytes: OnBytes) -> None:
    """Download one file to `target`, where it appears whole and as published or not at all.

    Args:
        weights: what it belongs to.
        repository: of the hub; None if the file has an address of its own.
        file: what it should be.
        target: its path; what lies there stays until the new file is whole.
        on_bytes: hears of every block, and at the beginning of what had arrived earlier.

    Raises:
        DiskFull: there is no room; what has arrived is kept.
        LabError: the server cannot be reached, refuses, or sent something else.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # it is exported lazily

    if repository is None:
        assert weights.link is not None, "the table gives neither a repository nor an address"
        url, headers = weights.link.url, {}
    else:
        url = hf_hub_url(repository.name, file.name, revision=repository.revision)
        headers = build_hf_headers()
    partial = partial_path(target, file)
    source = repository.name if repository else url
    try:
        _told(weights, source, lambda: _receive(url, headers, partial, file, on_bytes), partial)
    except LabError:
        if partial.is_file() and not partial.stat().st_size:
            partial.unlink()
        raise
    if not is_as_published(partial, file):
        partial.unlink()
        raise WeightsError(
            f"{file.name} of {source} arrived damaged: its hash is not the one that was published. It was thrown away; "
            f"run `wanavatar-lab weights download {weights.name}` again."
        )
    _told(weights, source, lambda: _put(partial, target), partial)


def _put(partial: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, target)


def _published(file: "RepoSibling") -> Published:
    return Published(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id)


def partial_path(target: Path, file: Published) -> Path:
    """Where the bytes of a file wait until it is whole: on the same disk, and not where weights are looked for."""
    folder = target
    for _ in PurePosixPath(file.name).parts:
        folder = folder.parent
    return folder / PARTIAL / f"{file.name.replace('/', '--')}.{file.mark}"


def _receive(url: str, headers: dict[str, str], partial: Path, file: Published, on_bytes: OnBytes) -> None:
    # hf_hub_download throws away what has arrived when it is interrupted, and so begins 10 GB anew
    from huggingface_hub.file_download import http_get

    with open(partial, "ab") as stream:
        have = stream.tell()
        if have > file.size:
            stream.truncate(0)
            have = 0
        on_bytes(have)
        http_get(
            url,
            stream,
            resume_size=have,
            # a compressed answer could not be continued at a byte of the file
            headers={**headers, "Accept-Encoding": "identity"},
            expected_size=file.size,
            displayed_filename=file.name,
            tqdm_class=_counter(on_bytes),
        )
        stream.flush()
        os.fsync(stream.fileno())


def _counter(on_bytes: OnBytes) -> Any:
    """A progress bar that draws nothing and passes on what it counts."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # it is exported lazily

    class Counter(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            on_bytes(int(n or 0))
            return None

    return Counter


def _told(weights: Weights, source: str, call: Callable[[], Value], written: Path | None = None) -> Value:
    """What `call` returns, or its error in words for the user."""
    try:
        return call()
    except Exception as error:
        told = _words(weights, source, error, written)
        if told is None:
            raise
        raise told from error


def _words(weights: Weights, source: str, error: Exception, written: Path | None) -> LabError | None:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    again = f"`wanavatar-lab weights download {weights.name}`"
    if written is not None and getattr(error, "errno", None) in OUT_OF_ROOM:
        return no_room(weights, written.parent.parent)
    if isinstance(error, GatedRepoError) or (weights.gated and status in (401, 403)):
        return LabError(_gated(weights, source, status))
    if status in (401, 403):
        return LabError(
            f"{_server(source)} refused access to {source} ({status}). A token that has expired is refused too: "
            f"renew HF_TOKEN or unset it, and run {again} again."
        )
    if status == 404:
        return LabError(
            f"{_server(source)} has no {source}, or not the files that are needed (404). Check HF_ENDPOINT, which "
            "should be the hub or a whole mirror of it, or put the files there by hand: `wanavatar-lab weights where "
            f"{weights.name}` says where to."
        )
    if status is not None:
        return LabError(f"{_server(source)} answered {status} for {source}. Wait a while and run {again} again.")
    if isinstance(error, OfflineModeIsEnabled):
        return LabError(f"HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it and run {again} again.")
    # httpx under one name or another, by the release of huggingface_hub
    if any(kind.__name__ in _TRANSPORT for kind in type(error).__mro__):
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        return LabError(
            f"{_server(source)} cannot be reached ({reason}). Check the network, HTTPS_PROXY and HF_ENDPOINT, and run "
            f"{again} again. {_GOES_ON}"
        )
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return LabError(f"{_server(source)} broke off in the middle of a file. Run {again} again. {_GOES_ON}")
    if isinstance(error, ValueError | KeyError | TypeError):
        return LabError(
            f"{_server(source)} answered with something that is no listing of {source}. Check HF_ENDPOINT, which "
            "should be the hub or a mirror of it."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return LabError(f"{error.filename or weights.place} could not be written ({error.strerror}).")
    return None


def _gated(weights: Weights, repository: str, status: int | None) -> str:
    from huggingface_hub import get_token

    given = "the token that was given has not been let in" if get_token() else "no token was given"
    return (
        f"{weights.name} is given only to those who have accepted its licence ({weights.licence}), and {given}"
        f" ({status}). Accept it at https://huggingface.co/{repository}, make a token that may read at "
        "https://huggingface.co/settings/tokens, and run "
        f"`HF_TOKEN=<token> wanavatar-lab weights download {weights.name}`."
    )


def no_room(weights: Weights, folder: Path, needed: str = "") -> DiskFull:
    """The error for a disk without room for `weights`; `needed` says how much there should be."""
    return DiskFull(
        f"There is no room for {weights.name} in {folder}{needed}. Free some space there, or set WANAVATAR_WEIGHTS to "
        f"a folder on a larger disk. {_GOES_ON}"
    )


def _server(source: str) -> str:
    return source.partition("//")[2].partition("/")[0] if "://" in source else _endpoint()


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name
