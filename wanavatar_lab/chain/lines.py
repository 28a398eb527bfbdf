"""The line that says how far a chain is, in a notebook and in a log."""

from collections.abc import Callable

from wanavatar_lab.chain.forecast import Progress

PARTS = 5  # a log gets a line each time that so many parts of a stage's steps are done


def on_progress(interactive: bool, write: Callable[[str], object] | None = None) -> Callable[[Progress], None]:
    """What `follow` should tell its progress to.

    Args:
        interactive: whether someone looks at the notebook: one line that is replaced. Otherwise lines that are worth
            keeping, some six for each stage, for a log.
        write: takes the lines of a log instead of standard output.
    """
    return _replaced() if interactive else _logged(write or _print)


def _logged(write: Callable[[str], object]) -> Callable[[Progress], None]:
    last: list[tuple[int, int, bool]] = []

    def show(progress: Progress) -> None:
        parts = int(progress.status.fraction * PARTS)
        now = (progress.number, parts, progress.status.ended)
        if [now] != last:
            last[:] = [now]
            write(str(progress))

    return show


def _replaced() -> Callable[[Progress], None]:
    from IPython.display import display  # only a kernel has use for it

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    last = [""]

    def show(progress: Progress) -> None:
        if (text := str(progress)) != last[0]:
            last[0] = text
            handle.update({"text/plain": text}, raw=True)

    return show


def _print(line: str) -> None:
    import sys

    sys.stdout.write(line + "\n")
    sys.stdout.flush()
