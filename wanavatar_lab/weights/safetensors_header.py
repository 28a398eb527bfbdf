"""The header of a safetensors file, read without torch: what is listed is never loaded."""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from wanavatar_lab.errors import WeightsError

LARGEST_HEADER = 100_000_000  # bytes; the format's own limit

# how a number is unpacked, by the format's name of its type
_NUMBERS = {"F64": "<d", "F32": "<f", "F16": "<e", "I64": "<q", "I32": "<i", "I16": "<h", "I8": "<b", "U8": "<B"}


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds.

    Attributes:
        file: where it lies.
        shapes: of every tensor, by its name.
        metadata: what its maker noted.
        size: of the file, in bytes.
    """

    file: Path
    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    size: int
    _places: dict[str, tuple[str, int]] = field(repr=False)

    def numbers(self, names: Iterable[str]) -> dict[str, float]:
        """The values of tensors of one element, such as alphas: a few bytes each, read where they lie.

        Raises:
            WeightsError: one is no single number.
        """
        values = {}
        with open(self.file, "rb") as stream:
            for name in names:
                kind, start = self._places[name]
                if math.prod(self.shapes[name]) != 1 or kind not in (*_NUMBERS, "BF16"):
                    raise WeightsError(f"{self.file} has {name} as {kind} {list(self.shapes[name])}; need one number.")
                stream.seek(start)
                if kind == "BF16":  # the upper half of a float32
                    (values[name],) = struct.unpack("<f", b"\0\0" + stream.read(2))
                else:
                    (values[name],) = struct.unpack(_NUMBERS[kind], stream.read(struct.calcsize(_NUMBERS[kind])))
        return {name: float(value) for name, value in values.items()}


def read_header(file: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        WeightsError: the file is not there, is no safetensors file, or is cut short.
    """
    try:
        size = file.stat().st_size
        with open(file, "rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
                raise WeightsError(f"{file} is no safetensors file, or is cut short. Download it again.")
            entries = json.loads(stream.read(length))
        metadata = entries.pop("__metadata__", None) or {}
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        places = {name: (entry["dtype"], 8 + length + entry["data_offsets"][0]) for name, entry in entries.items()}
        end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"{file} has a damaged header ({error!r}). Download it again.") from error
    if end > size:
        raise WeightsError(f"{file} is cut short: it has {size:,} bytes of {end:,}. Download it again.")
    return Header(file, shapes, {str(name): str(value) for name, value in metadata.items()}, size, places)
