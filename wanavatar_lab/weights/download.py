"""Getting weights, and going over those that are there: only what is missing or damaged is fetched.

Whether files are what was published: their hashes, and the manifest that keeps those beside the files.

The Hugging Face hub and other servers: what a repository holds, and one file, begun or continued.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables count as they do for huggingface_hub, which does the
transfer. What goes wrong is told as what it is.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from wanavatar_lab.errors import DiskFull, LabError, WeightsError
from wanavatar_lab.files import OUT_OF_ROOM, write_json
from wanavatar_lab.weights.folders import MANIFEST, PARTIAL
from wanavatar_lab.weights.table import Layout, Weights

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from wanavatar_lab import locks
from wanavatar_lab.files import entries, remove
from wanavatar_lab.weights.folders import Found, files_in, look
from wanavatar_lab.weights.table import amount

BLOCK = 8 * 1024 * 1024  # bytes
OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class Published:
    """A file as it was published.

    Attributes:
        name: its path in the folder.
        size: bytes.
        sha256: of its contents; None for the small files of a repository, of which the hub names git's hash only.
        blob: git's hash; None where the file comes from elsewhere.
    """

    name: str
    size: int
    sha256: str | None = None
    blob: str | None = None

    @property
    def mark(self) -> str:
        """A short name of these contents, so that what has arrived of other ones is not continued."""
        return (self.sha256 or self.blob or "unknown")[:16]


@dataclass(frozen=True)
class Entry:
    """A file as it was when it was downloaded."""

    size: int
    sha256: str


@dataclass
class Manifest:
    """What a folder was downloaded from, and the hash of each of its files.

    Attributes:
        repository: on the hub.
        revision: the commit.
        files: by their path in the folder.
    """

    repository: str
    revision: str
    files: dict[str, Entry] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write it into `folder`.

        Raises:
            DiskFull: there is no room.
        """
        write_json(folder / MANIFEST, asdict(self))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none, as a folder that was not downloaded by this package.

    Raises:
        WeightsError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        files = {name: Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in said["files"].items()}
        return Manifest(str(said["repository"]), str(said["revision"]), files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is damaged ({error!r}). Delete it, and the hub is asked instead.") from error


def sha256_of(path: Path, on_bytes: OnBytes | None = None) -> str:
    """The sha256 of a file; `on_bytes` hears of every block."""
    return _digest(path, hashlib.sha256(), on_bytes)


def is_as_published(path: Path, published: Published, on_bytes: OnBytes | None = None) -> bool:
    """Whether a file has the size and the contents that were published."""
    if path.stat().st_size != published.size:
        return False
    if published.sha256 is not None:
        return sha256_of(path, on_bytes) == published.sha256
    if published.blob is None:
        return True
    # git hashes a header before the contents
    return _digest(path, hashlib.sha1(b"blob %d\0" % published.size), on_bytes) == published.blob


def is_cut_short(path: Path) -> bool:
    """Whether a safetensors file ends before the tensors that its header names, or has no header; others never are."""
    if path.suffix != ".safetensors":
        return False
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            return True
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return True
    if not isinstance(header, Mapping):
        return True
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return size < 8 + length + max(ends, default=0)


def _digest(path: Path, digest: "hashlib._Hash", on_bytes: OnBytes | None) -> str:
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    return digest.hexdigest()


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


LOCK = ".lock"


@dataclass(frozen=True)
class Step:
    """How far a download or a check is.

    Attributes:
        doing: checking or fetching.
        file: which.
        done, total: bytes of all files together.
    """

    doing: str
    file: str
    done: int
    total: int


OnStep = Callable[[Step], None]


@dataclass
class Report:
    """What became of the files of some weights, each by its path in their folder.

    Attributes:
        weights: which.
        path: where they lie.
        against: what they were compared with, in words.
        right: they are as published.
        fetched: they were missing or damaged, and are as published now.
        corrupt: their contents are not those that were published.
        missing: they are not there.
        unhashed: nobody names a hash of them, so that no more than their length was looked at.
    """

    weights: Weights
    path: Path
    against: str
    right: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unhashed: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is missing or corrupt."""
        return not self.corrupt and not self.missing


def download(weights: Weights, weights_dir: Path | str, on_step: OnStep | None = None) -> Report:
    """Fetch what is missing or damaged of `weights`; what is whole stays.

    Raises:
        DiskFull: there is no room; what has arrived is kept.
        LabError: they are not downloaded but ship, lie in a layout that nothing can be fetched for, are being
            downloaded by another process, or the server cannot be reached or refuses.
    """
    found = look(weights, weights_dir)
    if weights.ships:
        if found.state == "present":
            return _look_over(found, on_step)
        raise LabError(
            f"{weights.name} is not downloaded: it ships with the repository. `git checkout -- weights/"
            f"{weights.place}` brings it back; WANAVATAR_WEIGHTS should be the repository's folder weights."
        )
    if weights.link is not None:
        published = Published(found.path.name, weights.link.size, weights.link.sha256)
        repository = Repository(weights.link.url, "", (published,))
        return _bring(found, repository, found.path.parent, on_step)
    layout = found.layout or weights.layout
    assert layout is not None, "what does not ship and has no address has a layout"
    if layout.repository is None:
        if found.state == "present":
            return _look_over(found, on_step)
        raise LabError(
            f"{found.path} holds {weights.name} in {layout.name} layout, which several people have published, and "
            f"lacks {', '.join(found.missing)}. Complete it from where it came, or move the folder away and run "
            f"`wanavatar-lab weights download {weights.name}` again."
        )
    report = _bring(found, ask_hub(weights, layout), found.path, on_step)
    lacking = look(weights, weights_dir).missing
    if lacking:
        raise WeightsError(
            f"{layout.repository} does not have {', '.join(lacking)}, which {weights.name} needs. Put that into "
            f"{found.path} by hand."
        )
    return report


def verify(weights: Weights, weights_dir: Path | str, on_step: OnStep | None = None) -> Report:
    """Hash what lies there and compare it with what was published; nothing is written.

    The hashes are those of the manifest that a download leaves beside the files, else the hub's own.

    Raises:
        LabError: there is no manifest and the hub cannot be asked, or the manifest is damaged.
    """
    found = look(weights, weights_dir)
    if weights.link is not None:
        published = Published(found.path.name, weights.link.size, weights.link.sha256)
        report = Report(weights, found.path, "the hash in the table of this package")
        return _compare(report, found.path.parent, [published], on_step)
    if found.state == "absent":
        return Report(weights, found.path, "nothing", missing=[weights.place])
    manifest = read_manifest(found.path)
    layout = found.layout or weights.layout
    if manifest is not None:
        files = [Published(name, entry.size, entry.sha256) for name, entry in manifest.files.items()]
        against = f"the manifest of {manifest.repository} at {manifest.revision[:7]}"
    elif layout is not None and layout.repository is not None:
        repository = ask_hub(weights, layout)
        files, against = list(repository.files), f"{repository.name} at {repository.revision[:7]}, as the hub says"
    else:
        return _look_over(found, on_step)
    report = _compare(Report(weights, found.path, against), found.path, files, on_step)
    # a need is said once: as the file that was published, where that is known
    report.missing += [
        need
        for need in found.missing
        if not any(fnmatchcase(file, kind) for file in report.missing for kind in need.split(" | "))
    ]
    return report


def _bring(found: Found, repository: Repository, folder: Path, on_step: OnStep | None) -> Report:
    weights, from_hub = found.weights, found.weights.link is None
    count = _Count(repository.files, on_step)
    report = Report(weights, found.path, repository.name)
    # of the large files the hub names the hash beforehand, so that one that never arrives is missed
    hashes = {file.name: Entry(file.size, file.sha256) for file in repository.files if file.sha256}
    manifest = Manifest(repository.name, repository.revision, hashes)
    with _writing(weights, folder) as partial:
        wanted: list[Published] = []
        for file in repository.files:
            target = folder / file.name
            if target.is_file() and is_as_published(target, file, count.of("checking", file)):
                report.right.append(file.name)
                manifest.files[file.name] = _entry(folder, file)
            else:
                wanted.append(file)
                count.forget(file)
        _ask_for_room(weights, folder, wanted)
        for file in wanted:
            fetch(weights, repository if from_hub else None, file, folder / file.name, count.of("fetching", file))
            report.fetched.append(file.name)
            manifest.files[file.name] = _entry(folder, file)
            if from_hub:
                # after every file, so that a download that is broken off leaves their hashes
                _save(manifest, weights, folder)
        if from_hub:
            _save(manifest, weights, folder)
            # what had begun to arrive of files that were replaced at the hub since
            for left in entries(partial):
                if left.path.suffix != LOCK:
                    remove(left.path)
    return report


def _save(manifest: Manifest, weights: Weights, folder: Path) -> None:
    try:
        manifest.save(folder)
    except DiskFull as error:
        raise no_room(weights, folder) from error


def _entry(folder: Path, file: Published) -> Entry:
    return Entry(file.size, file.sha256 or sha256_of(folder / file.name))


def _look_over(found: Found, on_step: OnStep | None) -> Report:
    """What can be said of files whose hashes nobody names."""
    report = Report(found.weights, found.path, "their own headers; nobody names their hashes", missing=[*found.missing])
    done = 0
    for file in files_in(found.path):
        name = file.relative_to(found.path).as_posix()
        if on_step is not None:
            on_step(Step("checking", name, done, found.size))
        done += file.stat().st_size
        (report.corrupt if is_cut_short(file) else report.unhashed).append(name)
    return report


def _compare(report: Report, folder: Path, files: list[Published], on_step: OnStep | None) -> Report:
    count = _Count(files, on_step)
    for file in files:
        if not (folder / file.name).is_file():
            report.missing.append(file.name)
        elif is_as_published(folder / file.name, file, count.of("checking", file)):
            report.right.append(file.name)
        else:
            report.corrupt.append(file.name)
    return report


def _ask_for_room(weights: Weights, folder: Path, wanted: list[Published]) -> None:
    need = sum(file.size for file in wanted)
    for file in wanted:
        partial = partial_path(folder / file.name, file)
        need -= min(partial.stat().st_size, file.size) if partial.is_file() else 0
    free = shutil.disk_usage(folder).free
    if need > free:
        raise no_room(weights, folder, f": {amount(need)} more are needed, and {amount(free)} are free")


@contextmanager
def _writing(weights: Weights, folder: Path) -> Iterator[Path]:
    """Hold the folder against other downloads, and give the one for partial files, which goes when it is empty."""
    partial = folder / PARTIAL
    lock = partial / f"{weights.name}{LOCK}"
    made = not folder.exists()
    try:
        partial.mkdir(parents=True, exist_ok=True)
        handle = locks.take(lock, wait=False)
    except OSError as error:
        if error.errno in OUT_OF_ROOM:
            raise no_room(weights, folder) from error
        raise LabError(
            f"{folder} cannot be written to ({error.strerror}). Make it writable, or set WANAVATAR_WEIGHTS to another "
            "folder."
        ) from error
    if handle is None:
        raise LabError(f"{weights.name} is being downloaded by another process. Wait until that has ended.")
    try:
        yield partial
    finally:
        lock.unlink(missing_ok=True)
        locks.drop(handle)
        # they stay where something waits in them, or where another download has just begun
        with suppress(OSError):
            partial.rmdir()
            if made:
                folder.rmdir()


class _Count:
    """Bytes that are done, over all files."""

    def __init__(self, files: list[Published] | tuple[Published, ...], on_step: OnStep | None) -> None:
        self._on_step = on_step
        self._total = sum(file.size for file in files)
        self._done: dict[str, int] = {}

    def of(self, doing: str, file: Published) -> Callable[[int], None]:
        """What to call with every block of `file`."""

        def on_bytes(size: int) -> None:
            self._done[file.name] = min(self._done.get(file.name, 0) + size, file.size)
            if self._on_step is not None:
                self._on_step(Step(doing, file.name, sum(self._done.values()), self._total))

        return on_bytes

    def forget(self, file: Published) -> None:
        """Forget what was counted of a file that has to be fetched."""
        self._done.pop(file.name, None)
