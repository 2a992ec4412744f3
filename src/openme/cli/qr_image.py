"""QR codes in an image, read back. Both libraries for it are an extra, and loaded here alone."""

import io
import sys
import zlib
from pathlib import Path

from openme.config.files import file_error
from openme.errors import OpenmeError

PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 16 * 2**20
MOST_PIXELS = 16 * 2**20
"""Of an image: more than the largest screens have."""


def texts_untrusted(raw: bytes, source: Path) -> list[str]:
    """What the QR codes in a PNG image say. OpenmeError if there is none, or a library is missing."""
    # ruff: noqa: PLC0415  # the extra is loaded for images, and for nothing else
    try:
        import zxingcpp
        from PIL import Image
    except ImportError as error:
        raise OpenmeError(
            f"{source}: QR codes need the Python library {error.name}, which is not there",
            f"{sys.executable or 'python3'} -m pip install zxing-cpp pillow, or import the text of the code",
        ) from None
    try:
        with Image.open(io.BytesIO(raw), formats=["PNG"]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise file_error(source, f"expected at most {MOST_PIXELS // 2**20} million pixels")
            coloured = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, OverflowError, zlib.error, Image.DecompressionBombError):
        raise file_error(source, "is a PNG image that cannot be read: damaged, or cut off") from None
    paper = Image.new("RGBA", coloured.size, "white")
    paper.alpha_composite(coloured)
    codes = zxingcpp.read_barcodes(paper.convert("L"), formats=zxingcpp.BarcodeFormats(zxingcpp.BarcodeFormat.QRCode))
    if not codes:
        raise file_error(source, "no QR code was found in it", "take the code alone, sharp and with a white margin")
    return [code.text for code in codes]
