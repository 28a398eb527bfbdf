"""Numbers as people read them."""


def amount(size: int | None) -> str:
    """Bytes as people read them: 45.7 GB, in powers of ten."""
    if size is None:
        return "size unknown"
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} bytes"
