"""As much of PNG (ISO/IEC 15948) as a black and white code needs, so that no image library is."""

import struct
import zlib


def gray(png: bytes) -> memoryview:
    """The pixels of a one-bit image without filters or interlace, a byte each: 0 black, 255 white."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks: dict[bytes, bytes] = {}
    at = 8
    while at < len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        chunks[kind] = chunks.get(kind, b"") + png[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, interlace) == (1, 0)
    assert colour in {0, 3}
    palette = [chunks[b"PLTE"][0], chunks[b"PLTE"][3]] if colour == 3 else [0, 255]
    raw = zlib.decompress(chunks[b"IDAT"])
    stride = (width + 7) // 8
    above = bytes(stride)
    pixels = bytearray()
    for row in range(height):
        start = row * (stride + 1)
        above = unfiltered(raw[start], raw[start + 1 : start + 1 + stride], above)
        pixels += bytes(palette[above[x // 8] >> (7 - x % 8) & 1] for x in range(width))
    return memoryview(bytes(pixels)).cast("B", (height, width))


def unfiltered(kind: int, line: bytes, above: bytes) -> bytes:
    """A line of pixels from a filtered one (section 9), for pixels of at most a byte."""
    result = bytearray()
    for index, value in enumerate(line):
        a, b, c = (result[-1], above[index], above[index - 1]) if index else (0, above[index], 0)
        nearest = min((a, b, c), key=lambda near, guess=a + b - c: abs(guess - near))  # type: ignore[misc]
        result.append((value + (0, a, b, (a + b) // 2, nearest)[kind]) & 255)
    return bytes(result)
