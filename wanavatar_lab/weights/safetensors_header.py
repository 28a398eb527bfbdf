"""The header of a safetensors file: names, shapes and dtypes of its tensors, and its metadata.

No tensor is loaded and torch is not imported. `safe_open` parses and checks the header: its size, its JSON, every
dtype and offset, and that the file has exactly the bytes that the header declares.
"""

import json
import math
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from wanavatar_lab.errors import WeightsError

# struct formats by dtype, little-endian as the file format is; a bfloat16 is the upper half of a float32
_FORMATS = dict(F64="<d", F32="<f", F16="<e", BF16="<f", I64="<q", I32="<i", I16="<h", I8="<b", U8="<B")


@dataclass(frozen=True)
class Header:
    """What a safetensors file declares.

    Attributes:
        file: its path.
        shapes: of every tensor, by its name.
        dtypes: of every tensor, as the format names them (F32, BF16, F8_E4M3, ...).
        metadata: text entries by the program that wrote the file.
        size: of the file, in bytes.
    """

    file: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    metadata: dict[str, str]
    size: int

    def scalars(self, names: Iterable[str]) -> dict[str, float]:
        """The values of tensors with one element, such as alphas. Each is a read of a few bytes.

        numpy has no bfloat16, in which some trainers store alphas, so the bytes are unpacked here.

        Raises:
            WeightsError: a tensor has more than one element, or none, or is of a dtype that is not read here.
        """
        values = {}
        with open(self.file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            entries = json.loads(stream.read(length))
            for name in names:
                dtype, shape = self.dtypes[name], self.shapes[name]
                if math.prod(shape) != 1 or dtype not in _FORMATS:
                    raise WeightsError(f"{self.file} has {name} as {dtype} {list(shape)}; need one number.")
                start, end = entries[name]["data_offsets"]
                stream.seek(8 + length + start)
                value = stream.read(end - start).rjust(struct.calcsize(_FORMATS[dtype]), b"\0")
                values[name] = float(struct.unpack(_FORMATS[dtype], value)[0])
        return values


def read_header(file: Path) -> Header:
    """Read and check the header of a safetensors file.

    Raises:
        WeightsError: the file is missing, not a regular file, or cannot be read; or it is damaged, cut short or of
            another format.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for a writer
            raise WeightsError(f"{file} cannot be read: it is not a regular file.")
        with safe_open(file, framework="np") as opened:
            tensors = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  # it is no mapping
            return Header(
                file,
                {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()},
                {name: tensor.get_dtype() for name, tensor in tensors.items()},
                opened.metadata() or {},
                status.st_size,
            )
    except OSError as error:
        raise WeightsError(f"{file} cannot be read ({error.strerror or error}).") from error
    except SafetensorError as error:
        raise WeightsError(
            f"{file} cannot be read: it is damaged, cut short or not a safetensors file ({error}). Download it again."
        ) from error


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, by their names; errors as of `read_header`."""
    return read_header(file).shapes
