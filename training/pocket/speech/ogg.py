"""Deterministic Ogg streams.

An Ogg stream has a serial number that its writer takes from the clock. To make streams comparable and hashable, it is
set to a given number and each page's checksum is recomputed. Reference: RFC 3533, section 6.
"""

import zlib

_HEADER = 27
_SERIAL, _CHECKSUM, _SEGMENTS = slice(14, 18), slice(22, 26), 26
# Ogg's CRC processes the bits of a byte in the opposite order to zlib's: reverse the bits, then use zlib's.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def with_serial(stream: bytes, serial: int) -> bytes:
    """Replace the serial number of an Ogg stream, 0 to 2**32 - 1.

    Raises:
        ValueError: `stream` is not a complete Ogg stream.
    """
    pages = bytearray(stream)
    at = 0
    while at < len(pages):
        segments = at + _HEADER
        if pages[at : at + 4] != b"OggS" or len(pages) < segments:
            raise ValueError(f"At byte {at} of {len(pages)} there is no Ogg page; the stream is cut short or not Ogg.")
        end = segments + pages[at + _SEGMENTS] + sum(pages[segments : segments + pages[at + _SEGMENTS]])
        page = pages[at:end]
        page[_SERIAL] = serial.to_bytes(4, "little")
        page[_CHECKSUM] = bytes(4)
        page[_CHECKSUM] = _checksum(bytes(page)).to_bytes(4, "little")
        pages[at:end] = page
        at = end
    return bytes(pages)


def _checksum(page: bytes) -> int:
    # zlib's CRC starts with and is inverted by all ones, Ogg's by zero
    backwards = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{backwards:032b}"[::-1], 2)
