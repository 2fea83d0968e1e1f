"""One encoded image, wherever its bytes lie: whether it can be used, what stands for its content, and its pixels."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Callable
from typing import IO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageOps

from drorae.data.crops import Reduced
from drorae.data.duplicates import READ_SIDE, perceptual_hash
from drorae.errors import UserError, one_line, printable

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "AVIF", "PCX", "SGI", "QOI")
"""What Pillow may open: formats of photographs that it decodes by itself, and runs no other program for."""
EXTENSIONS = tuple(sorted(name for name, kind in Image.registered_extensions().items() if kind in FORMATS))
LONGEST = 32
"""Times its shorter side: an image that is longer shows nothing in a square."""
HEAD_BYTES = 4096
"""Of an image that is neither read whole nor in the sample, the beginning: reading the header has fetched it."""
SAMPLE_BYTES = 2**21
"""Of a longer image in the sample, both ends are hashed, together so many bytes."""
_LYING, _FROM_THE_RIGHT, _FROM_BELOW = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
"""EXIF's orientations whose width is the file's height; and that end, upright, where the file begins."""


class Seen(NamedTuple):
    """What an encoded image turned out to be."""

    problem: str = ""
    """What keeps it out; empty if it can be used."""
    converted: str = ""
    """What it was before it became 8-bit RGB, where that is worth a notice."""
    look: bytes = b""
    """Its perceptual hash, where it was decoded."""
    identity: bytes = b""
    """Size, and hash of the content or of a part of it."""


def raise_limit(pixels: int) -> None:
    """Makes Pillow open images of so many pixels. For the whole process: Pillow has no other way."""
    # It refuses twice its limit.
    if pixels > 2 * (Image.MAX_IMAGE_PIXELS or pixels):
        Image.MAX_IMAGE_PIXELS = -(-pixels // 2)


def examine(stream: IO[bytes], full: bool, sampled: bool, limit: int) -> Seen:
    """Returns what an image is, from its bytes: decoded and hashed whole where `full`, else by header and a part.

    Raises:
        OSError, MemoryError: the machine cannot read it just now.
    """
    try:
        size = stream.seek(0, io.SEEK_END)
        stream.seek(0)
        if not size:
            return Seen("zero-byte")
        content = stream.read() if full else _part(stream, size, sampled)
        stream.seek(0)
        seen = _look_at(io.BytesIO(content) if full else stream, full, limit)
    except OSError as error:
        if will_pass(error):
            raise
        return Seen("unreadable")
    return seen._replace(identity=size.to_bytes(8, "little") + hashlib.sha256(content).digest())


def decode(opened: Callable[[], IO[bytes] | str], shown: str, least: int = 0) -> Image.Image | Reduced:
    """Returns the RGB picture of an encoded image that was checked before, from a stream or a path.

    A JPEG may be reduced to no less than `least` pixels of the shorter side; 0, the default: not at all.

    Raises:
        UserError: it cannot be decoded any more.
        OSError, MemoryError: the machine cannot read it just now.
    """
    try:
        with Image.open(opened(), formats=FORMATS) as file:
            return _drafted(file, least) if least else _upright_rgb(file)
    except UserError:
        raise
    except Exception as error:
        if will_pass(error):
            raise
        raise UserError(
            f"{printable(shown)}: cannot be decoded any more ({one_line(error)}); "
            "replace the file, or move it elsewhere, and start again"
        ) from None


def _drafted(file: Image.Image, least: int) -> Image.Image | Reduced:
    """A JPEG at a half, quarter or eighth of its size, which costs that much less; other formats have no such thing."""
    size = file.size
    drafted = file.draft(None, (least, least))
    if drafted is None:
        return _upright_rgb(file)
    width, height = drafted[1][2:]
    turn = file.getexif().get(ExifTags.Base.Orientation, 1)
    picture = _upright_rgb(file)
    if turn in _LYING:
        size, width, height = size[::-1], height, width
    left = picture.width - width if turn in _FROM_THE_RIGHT else 0.0
    top = picture.height - height if turn in _FROM_BELOW else 0.0
    return Reduced(picture, size, (left, top, left + width, top + height))


def will_pass(error: Exception) -> bool:
    """Whether an error tells of the machine, not of the file: without it the set would be another from day to day."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE):
        return True
    # Pillow's decoders have an OSError of their own for memory that ran out.
    return isinstance(error, MemoryError) or "out of memory" in str(error)


def _part(stream: IO[bytes], size: int, sampled: bool) -> bytes:
    """What of an image stands for all of it: both ends if it is `sampled` (all of a short one), else its beginning."""
    if not sampled:
        return stream.read(HEAD_BYTES)
    head = stream.read(SAMPLE_BYTES // 2)
    stream.seek(max(len(head), size - SAMPLE_BYTES // 2))
    return head + stream.read()


def _look_at(stream: IO[bytes], whole: bool, limit: int) -> Seen:
    """What the image in `stream` is: its problem, or its conversion and, decoded `whole`, its look."""
    header = stream.read(26)
    stream.seek(0)
    reason = "unreadable"
    # Decoders of broken files raise whatever they stumble over: OSError, SyntaxError, ValueError, zlib.error ...
    try:
        image = Image.open(stream, formats=FORMATS)
        if problem := _wrong_kind(image, limit):
            return Seen(problem)
        converted = _unusual_kind(image, header)
        if not whole:
            return Seen(converted=converted)
        reason = "truncated"
        # Reads every byte of a JPEG but computes an eighth of its side, or what a hash needs.
        image.draft(None, (READ_SIDE, READ_SIDE))
        image.load()
        reason = "unreadable"
        return Seen(converted=converted, look=perceptual_hash(_upright_rgb(image)))
    except Image.DecompressionBombError:
        return Seen(_too_large(limit))
    except Exception as error:
        if will_pass(error):
            raise
        return Seen(reason)


def _too_large(limit: int) -> str:
    return f"over {limit} pixels, which images.max_pixels raises"


def _wrong_kind(image: Image.Image, limit: int) -> str:
    """Returns what kind of image this is that cannot be used; empty if it can."""
    if image.width * image.height > limit:
        return _too_large(limit)
    # A JPEG with several pictures (MPO, as phones write them) is no animation: the first one is the photograph.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        return "of several pages" if image.format == "TIFF" else "animated"
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        return "of 32 bits and unknown range"
    if min(image.size) == 1:
        return "one pixel wide"
    return f"over {LONGEST} times as long as wide" if max(image.size) > LONGEST * min(image.size) else ""


def _unusual_kind(image: Image.Image, header: bytes) -> str:
    """Returns what an image is that others may convert in another way; empty for an ordinary one."""
    # PIL opens 16-bit colour PNGs as 8-bit RGB; the depth stands in byte 24 of the file.
    if image.mode.startswith("I") or (image.format == "PNG" and header[24:25] == b"\x10"):
        return "16-bit"
    return "CMYK" if image.mode == "CMYK" else ""


def _upright_rgb(file: Image.Image) -> Image.Image:
    image = file
    # In place, and converted only where there is something to convert: either would copy the whole picture.
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        # The upper byte, as Pillow takes it of 16-bit colour.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
