"""Download weights, and verify them against the hashes that were published.

huggingface_hub does the transfer, so HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables apply as they do
there. Added here are a plan before the first byte (which files are missing or corrupt, and whether the disk has room
for them), one download at a time in a folder, files that are in place only once their hash is right, a manifest of the
published hashes beside them, and errors that say what to do.

An interrupted download keeps the files that were complete. The one in transfer starts over.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, WeightsError
from wanavatar_lab.files import NO_FOLDER, OUT_OF_ROOM, remove, sync, whole_file
from wanavatar_lab.weights.folders import MANIFEST, Found, files_in, look
from wanavatar_lab.weights.safetensors_header import read_header
from wanavatar_lab.weights.table import Layout, Weights, amount

STAGING, LOCK = ".download", ".download.lock"  # in the folder: files in transfer, and the lock of the one downloader
BLOCK = 8 * 1024 * 1024  # bytes; large enough that Python's share of hashing does not count
OnBytes = Callable[[int], None]

# base classes of httpx's errors, by name: huggingface_hub has changed the package that they come from
_TRANSPORT = {"TransportError", "DecodingError", "TooManyRedirects", "InvalidURL", "ConnectionError"}
_KEPT = "Complete files are kept; the same command downloads the rest."


@dataclass(frozen=True)
class Step:
    """Progress of a check or of a download.

    Attributes:
        doing: checking or fetching.
        file: the file at work.
        done, total: bytes of all files that are checked or fetched.
    """

    doing: str
    file: str
    done: int
    total: int


OnStep = Callable[[Step], None]


@dataclass
class Report:
    """The result of a check or a download: files by their path in the folder.

    Attributes:
        weights: which.
        path: their folder or file.
        against: what they were compared with, in words.
        right: as published.
        fetched: were missing or corrupt, and are as published now.
        corrupt: their contents are not those that were published.
        missing: do not exist.
        unhashed: no hash of them is known, so that only headers of safetensors files were checked.
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


@dataclass(frozen=True)
class Published:
    """A published file.

    Attributes:
        name: its path in the folder.
        size: bytes.
        sha256: of its contents; None for the small files of a repository, for which the hub has only git's hash.
        blob: git's hash; None for a file from elsewhere.
    """

    name: str
    size: int
    sha256: str | None = None
    blob: str | None = None


@dataclass(frozen=True)
class Listing:
    """The published files of some weights.

    Attributes:
        source: the repository on the hub, or the URL.
        revision: the commit; empty for a URL.
        files: the smallest first, so that configs arrive before an interruption is likely.
    """

    source: str
    revision: str
    files: tuple[Published, ...]


def download(weights: Weights, weights_dir: Path | str, on_step: OnStep | None = None) -> Report:
    """Download the files of `weights` that are missing or corrupt; those that are as published stay.

    Raises:
        DiskFull: there is no room; complete files are kept.
        LabError: the weights ship with the repository, have a layout whose publisher is unknown, are being downloaded
            by another process, or the server cannot be reached or refuses.
    """
    found = look(weights, weights_dir)
    layout = found.layout or weights.layout
    if weights.link is None and (layout is None or layout.repository is None):
        if found.state == "present":
            return _check_headers(found, on_step)
        if layout is None or weights.ships:
            raise LabError(
                f"{weights.name} is not downloaded: it ships with the repository. `git checkout -- weights/"
                f"{weights.place}` brings it back; WANAVATAR_WEIGHTS should be the repository's folder weights."
            )
        raise LabError(
            f"{found.path} holds {weights.name} in {layout.name} layout, which several people have published, and "
            f"lacks {', '.join(found.missing)}. Complete it from its source, or move the folder away and run "
            f"`wanavatar-lab weights download {weights.name}` again."
        )
    listing, folder = _published(weights, layout), found.path if layout else found.path.parent
    with _explained(weights, listing.source, folder), _staging(folder) as staging:
        report = _compare(Report(weights, found.path, listing.source), folder, listing, on_step)
        wanted = [file for file in listing.files if file.name not in report.right]
        need, free = sum(file.size for file in wanted), shutil.disk_usage(folder).free
        if need > free:
            raise _no_room(weights, folder, f": {amount(need)} more are needed, and {amount(free)} are free")
        if layout:  # before the first file, so that `verify` misses those that never arrive
            (staging / MANIFEST).write_text(_manifest(listing), encoding="utf-8")
            _place(weights, staging, folder, MANIFEST)
        progress = _Progress("fetching", wanted, on_step)
        for file in wanted:
            progress.begin(file)
            _fetch(weights, listing, file, staging, folder, progress.add)
    report.fetched, report.missing, report.corrupt = [file.name for file in wanted], [], []
    if lacking := look(weights, weights_dir).missing:
        raise WeightsError(
            f"{listing.source} does not have {', '.join(lacking)}, which {weights.name} needs. Put that into "
            f"{found.path} by hand."
        )
    return report


def verify(weights: Weights, weights_dir: Path | str, on_step: OnStep | None = None) -> Report:
    """Hash the files of `weights` and compare them with the published hashes; nothing is written.

    The hashes are those of the manifest that a download leaves beside the files, else the hub's.

    Raises:
        LabError: there is no manifest and the hub cannot be asked, or the manifest is damaged.
    """
    found = look(weights, weights_dir)
    layout = found.layout or weights.layout
    if weights.link is not None:
        listing, against = _published(weights, None), "the hash in the table of this package"
        return _compare(Report(weights, found.path, against), found.path.parent, listing, on_step)
    if found.state == "absent":
        return Report(weights, found.path, "nothing", missing=[weights.place])
    if manifest := _read_manifest(found.path):
        listing, against = manifest, f"the manifest of {manifest.source} at {manifest.revision[:7]}"
    elif layout is not None and layout.repository is not None:
        listing = _published(weights, layout)
        against = f"{listing.source} at {listing.revision[:7]}, as the hub says"
    else:
        return _check_headers(found, on_step)
    report = _compare(Report(weights, found.path, against), found.path, listing, on_step)
    # a pattern of the table is left out where a published file that it matches is named already
    report.missing += [
        need
        for need in found.missing
        if not any(fnmatchcase(file, pattern) for file in report.missing for pattern in need.split(" | "))
    ]
    return report


def _published(weights: Weights, layout: Layout | None) -> Listing:
    """The files of a layout as the hub lists them now; without a layout the file that the weights link to.

    Raises:
        LabError: the hub cannot be reached, refuses, or lists something unusable.
    """
    if weights.link is not None:
        return Listing(weights.link.url, "", (Published(weights.place, weights.link.size, weights.link.sha256),))
    assert layout is not None and layout.repository is not None, "weights without a link have a repository"
    from huggingface_hub import HfApi

    name = layout.repository
    with _explained(weights, name):
        info = HfApi().model_info(name, files_metadata=True)
    files = [file for file in info.siblings or () if any(fnmatchcase(file.rfilename, kind) for kind in layout.files)]
    outside = [file.rfilename for file in files if not _stays_inside(file.rfilename)]
    fault = ""
    if not files or info.sha is None:
        fault = "none of the files that are needed"
    elif outside:
        fault = f"files outside the repository: {', '.join(outside)}"
    elif any(file.size is None for file in files):
        fault = "files without their sizes"
    if fault:
        raise WeightsError(
            f"{HfApi().endpoint} lists {fault} in {name}. Set HF_ENDPOINT to the hub or a trusted mirror."
        )
    published = (
        Published(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id) for file in files
    )
    return Listing(name, str(info.sha), tuple(sorted(published, key=lambda file: (file.size, file.name))))


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _compare(report: Report, folder: Path, listing: Listing, on_step: OnStep | None) -> Report:
    progress = _Progress("checking", listing.files, on_step)
    for file in listing.files:
        progress.begin(file)
        if not (folder / file.name).is_file():
            report.missing.append(file.name)
        else:
            right = _is_as_published(folder / file.name, file, progress.add)
            (report.right if right else report.corrupt).append(file.name)
    return report


def _is_as_published(path: Path, file: Published, on_bytes: OnBytes) -> bool:
    if path.stat().st_size != file.size:
        return False
    # git hashes a header before the contents
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            on_bytes(len(block))
    return digest.hexdigest() == (file.sha256 or file.blob)


def _check_headers(found: Found, on_step: OnStep | None) -> Report:
    """Check files of which no hash is known: safetensors files declare their length."""
    report = Report(found.weights, found.path, "their own headers; no hashes are published", missing=[*found.missing])
    paths = list(files_in(found.path))
    files = [Published(path.relative_to(found.path).as_posix(), path.stat().st_size) for path in paths]
    progress = _Progress("checking", files, on_step)
    for path, file in zip(paths, files, strict=True):
        progress.begin(file)
        progress.add(file.size)
        try:
            if path.suffix == ".safetensors":
                read_header(path)
            report.unhashed.append(file.name)
        except WeightsError:
            report.corrupt.append(file.name)
    return report


class _Progress:
    """Counts bytes over several files."""

    def __init__(self, doing: str, files: Sequence[Published], on_step: OnStep | None) -> None:
        self._doing, self._on_step = doing, on_step
        self._total = sum(file.size for file in files)
        self._file, self._done, self._next = "", 0, 0

    def begin(self, file: Published) -> None:
        """Go to the next file; the one before it counts whole, even where its size alone showed that it is corrupt."""
        self._file, self._done, self._next = file.name, self._next, self._next + file.size

    def add(self, size: int) -> None:
        """Count `size` more bytes of the file."""
        self._done += size
        if self._on_step is not None:
            self._on_step(Step(self._doing, self._file, self._done, self._total))


def _read_manifest(folder: Path) -> Listing | None:
    """The manifest in a folder; None if there is none, as in a folder that this package has not downloaded."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
        files = [
            Published(name, int(entry["size"]), entry.get("sha256"), entry.get("blob"))
            for name, entry in noted["files"].items()
        ]
        return Listing(str(noted["repository"]), str(noted["revision"]), tuple(files))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged ({error!r}). Delete it, and the hub is asked instead.") from error


def _manifest(listing: Listing) -> str:
    hashes = {
        file.name: {"size": file.size, **({"sha256": file.sha256} if file.sha256 else {"blob": file.blob})}
        for file in listing.files
    }
    return json.dumps({"repository": listing.source, "revision": listing.revision, "files": hashes}, indent=2) + "\n"


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Lock `folder` against other downloads and give an empty folder in it, which is removed at the end.

    What a killed download has left there is removed first: huggingface_hub does not resume it.
    """
    staging, lock, made = folder / STAGING, folder / LOCK, not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = locks.take(lock, wait=False)
    if handle is None:
        raise LabError(f"Another process is downloading into {folder}. Run this again when it has finished.")
    try:
        remove(staging)
        staging.mkdir()
        yield staging
    finally:
        remove(staging)
        lock.unlink(missing_ok=True)
        locks.drop(handle)
        if made and not any(files_in(folder)):  # nothing has arrived
            remove(folder)


def _fetch(weights: Weights, listing: Listing, file: Published, staging: Path, folder: Path, on_bytes: OnBytes) -> None:
    """Download one file. It gets its place in `folder` once it is complete and its hash is right."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]  # it is exported lazily

    class Bar(tqdm):
        """Passes on what huggingface_hub counts, and draws nothing."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            on_bytes(int(n or 0))
            return None

        def update_transfer(self, n: float | None = 1) -> None:
            """Bytes that Xet has received, which `update` counts once more when they are written."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            """The speed at which Xet receives."""

    staged = staging / file.name
    if weights.link is None:
        # one by one, not by snapshot_download: it loses every file in transfer when it is interrupted, and Ctrl-C
        # waits for them; `force_download`, since what the hub's own cache has need not be whole
        hf_hub_download(
            listing.source,
            file.name,
            revision=listing.revision,
            local_dir=staging,
            force_download=True,
            tqdm_class=Bar,
        )
    else:
        with open(staged, "wb") as stream:
            http_get(weights.link.url, stream, expected_size=file.size, tqdm_class=Bar)
    if not _is_as_published(staged, file, lambda _: None):
        raise WeightsError(
            f"{file.name} of {listing.source} arrived damaged: its hash is not the published one. It was thrown away; "
            f"run `wanavatar-lab weights download {weights.name}` again."
        )
    _place(weights, staging, folder, file.name)


def _place(weights: Weights, staging: Path, folder: Path, name: str) -> None:
    sync(staging / name)
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(staging / name, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # a part may be a link to a folder on another disk
        try:
            with whole_file(target) as temporary:
                shutil.copyfile(staging / name, temporary)
        except DiskFull as full:
            raise _no_room(weights, target.parent) from full
        (staging / name).unlink()


@contextmanager
def _explained(weights: Weights, source: str, folder: Path | None = None) -> Iterator[None]:
    """Raise what goes wrong inside as a `LabError` that says what to do.

    Args:
        source: the repository on the hub, or the URL.
        folder: that is written to, if any.
    """
    try:
        yield
    except LabError:
        raise
    except Exception as error:
        explained = _explanation(weights, source, folder, error)
        if explained is None:
            raise
        raise explained from error


def _explanation(weights: Weights, source: str, folder: Path | None, error: BaseException) -> LabError | None:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    while isinstance(error, ValueError) and error.__cause__ is not None:  # "failed due to the above error"
        error = error.__cause__
    server = source.partition("//")[2].partition("/")[0] or str(constants.ENDPOINT)
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    command = f"wanavatar-lab weights download {weights.name}"
    if folder is not None and (getattr(error, "errno", None) in OUT_OF_ROOM or "No space left on device" in reason):
        return _no_room(weights, folder)
    if isinstance(error, GatedRepoError) or (weights.gated and status in (401, 403)):
        given = "the given token has no access" if get_token() else "no token was given"
        return LabError(
            f"{weights.name} is given only to those who have accepted its licence ({weights.licence}), and {given}"
            f" ({status}). Accept it at https://huggingface.co/{source}, make a token with read access at "
            f"https://huggingface.co/settings/tokens, and run `HF_TOKEN=<token> {command}`."
        )
    if status in (401, 403):
        return LabError(
            f"{server} refused access to {source} ({status}). An expired token is refused too: renew HF_TOKEN or "
            f"unset it, and run `{command}` again."
        )
    if status == 404:
        return LabError(
            f"{server} has no {source}, or not the files that are needed (404). Check HF_ENDPOINT, which should be the "
            "hub or a complete mirror of it, or put the files into the folder by hand: `wanavatar-lab weights where "
            f"{weights.name}` shows it."
        )
    if status is not None:
        return LabError(f"{server} answered {status} for {source}. Wait a while and run `{command}` again.")
    if isinstance(error, OfflineModeIsEnabled):
        return LabError(f"HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it and run `{command}` again.")
    if any(kind.__name__ in _TRANSPORT for kind in type(error).__mro__):
        return LabError(
            f"{server} cannot be reached ({reason}). Check the network, HTTPS_PROXY and HF_ENDPOINT, and run "
            f"`{command}` again. {_KEPT}"
        )
    if isinstance(error, OSError) and error.errno in NO_FOLDER:
        return LabError(
            f"{error.filename or folder} is no folder, or a link to one that is not there. Mount its disk, move it "
            "away, or set WANAVATAR_WEIGHTS to another folder."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return LabError(
            f"{error.filename or folder} cannot be used ({error.strerror}). Make it writable, or set WANAVATAR_WEIGHTS "
            "to another folder."
        )
    if isinstance(error, OSError | RuntimeError):  # a file of another length, and errors of Xet
        return LabError(f"{server} did not deliver {source} ({reason}). Run `{command}` again. {_KEPT}")
    if isinstance(error, ValueError | KeyError | TypeError) and folder is None:
        return LabError(
            f"{server} answered with something that is no listing of {source}. Check HF_ENDPOINT, which should be the "
            "hub or a mirror of it."
        )
    return None


def _no_room(weights: Weights, folder: Path, needed: str = "") -> DiskFull:
    return DiskFull(
        f"There is no room for {weights.name} in {folder}{needed}. Free some space there, or set WANAVATAR_WEIGHTS to "
        f"a folder on a larger disk. {_KEPT}"
    )
