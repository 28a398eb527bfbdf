"""Getting weights, and going over those that are there: only what is missing or damaged is fetched."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, WeightsError
from wanavatar_lab.files import OUT_OF_ROOM
from wanavatar_lab.weights.entries import Weights
from wanavatar_lab.weights.folders import PARTIAL, Found, files_in, look
from wanavatar_lab.weights.hashes import (
    Entry,
    Manifest,
    Published,
    is_as_published,
    is_cut_short,
    read_manifest,
    sha256_of,
)
from wanavatar_lab.weights.hub import Repository, ask_hub, fetch, no_room, partial_path
from wanavatar_lab.weights.words import amount

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
            for left in partial.iterdir():
                if left.suffix != LOCK:
                    left.unlink()
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
