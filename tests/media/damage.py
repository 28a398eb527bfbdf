"""Whole media files, damaged in every way that copying, recording, sending and editing does, the same each time."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

HEADERS = (
    *(b"RIFF\xff\xff\xff\x7fWAVEfmt ", b"RIFF\x10\0\0\0AVI LIST", b"\0\0\0\x18ftypmp42", b"\0\0\0\x08moov"),
    *(b"OggS\0\2", b"\x1a\x45\xdf\xa3", b"fLaC\0\0\0\x22", b"ID3\4\0\0\x7f\x7f\x7f\x7f", b"\xff\xfb\x90\x64"),
    *(b"\xff\xf1\x50\x80", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0\0\x10JFIF", b"GIF89a", b"BM", b"II*\0"),
    *(b"RIFF\x24\0\0\0WEBPVP8 ", b"FORM\0\0\0\x20AIFFCOMM", b"G" * 4, b"FLV\1\5", b"\x30\x26\xb2\x75", b""),
    *(b"caff\0\1\0\0", b"#!AMR\n", b"\0\0\0\x18ftypheic", b"\0\0\0\x18ftypavif"),
)
NUMBERS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
Damage = Callable[[bytes, bytes, random.Random], bytes]


def cut(whole: bytes, other: bytes, draw: random.Random) -> bytes:
    return whole[: draw.choice((draw.randrange(1, len(whole)), len(whole) * 9 // 10, len(whole) - 1, len(whole) - 20))]


def changed(whole: bytes, other: bytes, draw: random.Random) -> bytes:
    """Single bytes, anywhere or in the header."""
    data, reach = bytearray(whole), draw.choice((len(whole), min(len(whole), 256)))
    for _ in range(draw.choice((1, 4, 40))):
        data[draw.randrange(reach)] = draw.choice((0, 255, 127, 128, draw.randrange(256)))
    return bytes(data)


def zeroed(whole: bytes, _: bytes, draw: random.Random) -> bytes:
    """A piece that was never written, as after a download of several parts."""
    place, size = draw.randrange(len(whole)), draw.choice((1, 40, 512))
    return (whole[:place] + bytes(size) + whole[place + size :])[: len(whole)]


def without_a_piece(whole: bytes, _: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(whole))
    return whole[:place] + whole[place + draw.randrange(1, 300) :]


def with_a_piece_twice(whole: bytes, _: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(whole))
    return whole[:place] + whole[place : place + draw.randrange(1, 400)] + whole[place:]


def with_a_foreign_piece(whole: bytes, other: bytes, draw: random.Random) -> bytes:
    place, start = draw.randrange(len(whole)), draw.randrange(len(other))
    return whole[:place] + other[start : start + draw.randrange(400)] + whole[place + draw.randrange(200) :]


def with_another_body(whole: bytes, other: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(8, 200)
    return whole[:place] + other[place:]


def with_a_wrong_number(whole: bytes, _: bytes, draw: random.Random) -> bytes:
    """Four bytes that may be a size, a count, a rate or a time."""
    place = draw.randrange(max(1, min(len(whole) - 4, draw.choice((64, 2_000, 1 << 20)))))
    number = draw.choice((*NUMBERS, draw.getrandbits(32), draw.getrandbits(16)))
    return whole[:place] + number.to_bytes(4, draw.choice(("big", "little"))) + whole[place + 4 :]


def joined(whole: bytes, other: bytes, draw: random.Random) -> bytes:
    return draw.choice((whole + whole, whole + other, draw.randbytes(draw.choice((1, 50, 3_000))) + whole))


def header_alone(_: bytes, __: bytes, draw: random.Random) -> bytes:
    return draw.choice(HEADERS) + draw.randbytes(draw.choice((1, 10, 100, 3_000)))


KINDS: tuple[Damage, ...] = (
    *(cut, changed, zeroed, without_a_piece, with_a_piece_twice, with_a_foreign_piece, with_another_body),
    *(with_a_wrong_number, joined, header_alone),
)


def damaged_files(folder: Path, whole: Sequence[Path], rounds: int) -> list[Path]:
    """Each of the files damaged in each way, `rounds` times; some get the suffix of another format."""
    contents, made = [path.read_bytes() for path in whole], []
    for path, content in zip(whole, contents, strict=True):
        for count in range(rounds):
            for kind in KINDS:
                draw = random.Random(f"{path.name} {kind.__name__} {count}")
                suffix = path.suffix if draw.random() < 0.8 else draw.choice(whole).suffix
                made.append(folder / f"{path.stem}{path.suffix}.{kind.__name__}.{count}{suffix}")
                made[-1].write_bytes(kind(content, draw.choice(contents), draw) or b"\0")
    return made
