"""The first bytes of a picture -> its format, size and orientation, without decoding anything.

Runs in the server on untrusted bytes, so it is plain Python that compares, counts and skips, in a
bounded number of steps. Knows how formats begin, and the names of those that are not read. Does not
know Pillow, and does not tell whether the pixels are sound.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from qwen_vl.errors import BadRequest, UnsupportedMedia

FORMATS_TEXT = "PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF"
CONTAINERS_TEXT = "MP4, MOV, WebM, MKV, AVI, MPEG, FLV, Ogg or GIF"
HEAD_BYTES = 3 * 204  # that tell the container of a clip
ANIMATIONS = ("gif", "webp", "apng")  # clips that Pillow reads
MAX_STEPS = 5_000  # chunks, segments or tags that are looked at; a large PNG has some 1,300
MAX_METADATA_BYTES = 1 << 18  # of EXIF or XMP that are looked at
MAX_TEXTS = 50  # of a PNG, in which an orientation is looked for
_MARKER = re.compile(rb"\xff[\x02-\xcf\xda-\xfe]")  # of a JPEG, with a segment behind it
_ORIENTATION_TAG = 0x0112
_WEBP_COST = 16.0
_TIFF_COST, _TURNED_TIFF_COST = 5.0, 9.0
_AVIF_COST = 14.0
_SWAPPED = (5, 6, 7, 8)  # EXIF orientations of pictures that are stored lying down


@dataclass(frozen=True)
class Header:
    """`width` and `height` in px as stored; 0 where only a decoder can tell (AVIF).

    `orientation` is EXIF's number, 1 (upright) to 8.
    """

    format: str  # as Pillow names it
    width: int
    height: int
    orientation: int = 1
    bytes_per_px: float = 4.0  # what decoding takes; by measurement

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in px once the orientation is applied."""
        lying = self.orientation in _SWAPPED
        return (self.height, self.width) if lying else (self.width, self.height)


def read_header(data: bytes) -> Header:
    """Raises UnsupportedMedia (no picture, or none that is read here) and BadRequest (damaged)."""
    for name, magic, read in _READERS:
        if re.match(magic, data[:32], re.DOTALL):
            try:
                return read(data)
            except (struct.error, IndexError):  # ends in the middle of its header
                raise BadRequest(damaged(f"{name} header cut off")) from None
    raise UnsupportedMedia(_foreign(data))


def damaged(cause: str = "") -> str:
    """The refusal of a broken picture; `cause` is a decoder's word for it."""
    is_cut = any(word in cause for word in ("truncated", "EOF", "cut off"))
    state = "incomplete: its end is missing" if is_cut else "damaged and cannot be decoded"
    return f"The picture is {state}. Save or download it again, then send the new file."


def not_read(what: str) -> str:
    """The refusal of a format that is known but not read."""
    return f"{what} is not read here. Save the picture as PNG or JPEG and send that."


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end) of each chunk: where its length stands, and where its checksum ends.

    `end` may lie behind the end of the file.
    """
    at = 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], at, at + 12 + size
        at += 12 + size


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment before the first scan, then (0xDA, start, len(data)).

    `start` is where its 0xFF stands. Bytes between segments are skipped, as decoders do.
    """
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = data[found.start() + 1], found.start()
        if marker == 0xDA:
            yield marker, at, len(data)
            return
        if at + 4 > len(data):
            return
        end = at + 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])
        yield marker, at, end
        at = end


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that begins so, or None; `head` is HEAD_BYTES of a file.

    FFmpeg also opens playlists, which name other files and addresses for it to read: a text file
    called clip.mp4 must never get that far.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"  # MP4 too
    if head.startswith(b"RIFF"):
        return {b"AVI ": "avi", b"WEBP": "webp"}.get(head[8:12])
    found = (name for magic, name in _CONTAINERS if head.startswith(magic))
    return next(found, "mpegts" if _is_transport_stream(head) else None)


def _is_transport_stream(head: bytes) -> bool:
    """Whether three packets begin where they should; a recording may begin in the middle of one."""
    return any(head[start::size][:3] == b"GGG" for start, size in _PACKETS)


_PACKETS = ((0, 188), (4, 192), (0, 204))  # where the first begins, and their bytes: TV, M2TS, DVB


_CONTAINERS = (
    (b"\x1aE\xdf\xa3", "matroska"),  # WebM too
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"\0\0\x01\xba", "mpeg"),  # a program stream
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"\x89PNG", "apng"),
)


def _first(items: Iterator[tuple]) -> Iterator[tuple]:
    return (item for item, _ in zip(items, range(MAX_STEPS), strict=False))


def _png(data: bytes) -> Header:
    if data[12:16] == b"CgBI":
        raise UnsupportedMedia(not_read("A PNG in Apple's own form"))
    if data[12:16] != b"IHDR":
        raise BadRequest(damaged())
    width, height = struct.unpack_from(">II", data, 16)
    found, texts = 1, 0
    for kind, start, end in _first(png_chunks(data)):
        if kind == b"eXIf":
            found = _exif(data[start + 8 : end - 4]) or found
        elif kind in (b"iTXt", b"tEXt", b"zTXt") and found == 1 and texts < MAX_TEXTS:
            texts += 1
            found = _png_text(data[start + 8 : min(end - 4, start + MAX_METADATA_BYTES)])
        elif kind == b"IEND":
            break
    return Header("PNG", width, height, found)


def _png_text(text: bytes) -> int:
    key, _, value = text.partition(b"\0")
    if key == b"XML:com.adobe.xmp":
        return _xmp(value)
    if key != b"Raw profile type exif":
        return 1
    if value[:1] == b"\0":  # compressed
        try:
            value = zlib.decompressobj().decompress(value[1:], MAX_METADATA_BYTES)
        except zlib.error:
            return 1
    try:
        return _exif(bytes.fromhex("".join(value.decode("latin-1").split("\n")[3:]))) or 1
    except ValueError:
        return 1


_OTHER_JPEG = {
    **dict.fromkeys((0xC3, 0xCB), "Lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "Hierarchical JPEG"),
    0xF7: "JPEG-LS",
}


def _jpeg(data: bytes) -> Header:
    size, found, cost = (0, 0), 0, 4.0
    for marker, start, end in _first(jpeg_segments(data)):
        if marker in _OTHER_JPEG:
            raise UnsupportedMedia(not_read(_OTHER_JPEG[marker]))
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not any(size):
            bits, height, width = struct.unpack_from(">BHH", data, start + 4)
            if bits != 8:
                raise UnsupportedMedia(not_read(f"A JPEG with {bits} bits for each colour"))
            size = width, height
            cost = 1.0 if data[start + 9] == 1 else 4.0  # grey or colours
            if marker in (0xC2, 0xC6, 0xCA):  # progressive: all coefficients are kept, 2 bytes each
                sampling = [(n >> 4) * (n & 15) for n in data[start + 11 : end : 3]]
                cost += 2 * sum(sampling) / max([1, *sampling])
        elif marker == 0xE1 and not found:
            body = data[start + 4 : end]
            if body.startswith(b"Exif\0"):
                found = _exif(body[6:])
            elif body.startswith(b"http://ns.adobe.com/xap/"):
                found = _xmp(body) if _xmp(body) > 1 else 0
    if not any(size):
        raise BadRequest(damaged())
    return Header("JPEG", *size, found or 1, cost)


def _gif(data: bytes) -> Header:
    """The screen, made larger where the first frame reaches out of it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    for _ in range(MAX_STEPS):
        if data[at] == 0x2C:
            left, top, w, h = struct.unpack_from("<HHHH", data, at + 1)
            return Header("GIF", max(width, left + w), max(height, top + h))
        if data[at] != 0x21:
            at += 1  # decoders look for the next block
            continue
        at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
    raise BadRequest(damaged())


def _bmp(data: bytes) -> Header:
    if data[14] == 12:
        return Header("BMP", *struct.unpack_from("<HH", data, 18))
    width, height = struct.unpack_from("<Ii", data, 18)
    return Header("BMP", width, abs(height))


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WEBP", width & 0x3FFF, height & 0x3FFF, 1, _WEBP_COST)
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, 1, _WEBP_COST)
    if kind != b"VP8X":
        raise BadRequest(damaged())
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    found, at = 0, 12
    for _ in range(MAX_STEPS):
        if at + 8 > len(data):
            break
        kind, size = struct.unpack_from("<4sI", data, at)
        body = data[at + 8 : at + 8 + min(size, MAX_METADATA_BYTES)]
        if kind == b"EXIF":
            found = _exif(body)
        elif kind == b"XMP ":
            found = found or _xmp(body)
        at += 8 + size + size % 2
    return Header("WEBP", width, height, found or 1, _WEBP_COST)


def _tiff(data: bytes) -> Header:
    tags = _tags(data)
    if not (tags.get(256) and tags.get(257)):
        raise BadRequest(damaged())
    turn = _checked(tags.get(_ORIENTATION_TAG, 1))
    cost = _TIFF_COST if turn == 1 else _TURNED_TIFF_COST
    return Header("TIFF", tags[256], tags[257], turn, cost)


def _tags(data: bytes) -> dict[int, int]:
    """The whole numbers in the first directory of a TIFF, by tag; EXIF has the same form."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        (at,) = struct.unpack_from(order + "Q", data, 8)
        (count,) = struct.unpack_from(order + "Q", data, at)
        at, entry, width, inline = at + 8, order + "HHQ", 20, 12
    else:
        (at,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, at)
        at, entry, width, inline = at + 2, order + "HHI", 12, 8
    found: dict[int, int] = {}
    for start in range(at, at + width * min(count, MAX_STEPS), width):
        if start + width > len(data):
            break
        tag, kind, number = struct.unpack_from(entry, data, start)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter and number == 1:
            found[tag] = struct.unpack_from(order + letter, data, start + inline)[0]
    return found


def _exif(body: bytes) -> int:
    """The orientation, 1 to 8; 0 where there is none or the EXIF cannot be read."""
    for _ in range(2):  # some programs write it twice
        body = body.removeprefix(b"Exif\0\0")
    if body[:4] not in (b"II*\0", b"MM\0*"):
        return 0
    try:
        tags = _tags(body[:MAX_METADATA_BYTES])
    except (struct.error, OverflowError):
        return 0
    return _checked(tags[_ORIENTATION_TAG]) if _ORIENTATION_TAG in tags else 0


def _xmp(body: bytes) -> int:
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', body[:MAX_METADATA_BYTES])
    return int(found[1]) if found else 1


def _checked(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


def _foreign(data: bytes) -> str:
    """The name of a format that is not read here, if the first bytes tell it."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    brands = re.findall(b"....", data[8:64], re.DOTALL) if data[4:8] == b"ftyp" else []
    if b"<svg" in head:
        return "This is an SVG drawing. Export it as PNG and send that."
    if any(brand[:3] in (b"hei", b"hev") or brand in (b"mif1", b"msf1") for brand in brands[:1]):
        return "This is a HEIC photo. Save it as JPEG and send that."
    if brands or head.startswith(b"\x1aE\xdf\xa3") or data[8:12] == b"AVI ":
        return "This is a video, not a picture, whatever its name says. Add it as a video."
    for name, magic in _OTHERS:
        if re.match(magic, data[:160], re.DOTALL):
            return not_read(name)
    return f"This is not a picture that can be read here. Send {FORMATS_TEXT}."


_OTHERS = (  # what people send besides
    ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("JPEG XR", rb"II\xbc"),
    ("A PDF", rb"%PDF"),
    ("PostScript", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("A Photoshop file", rb"8BPS"),
    ("A GIMP file", rb"gimp xcf"),
    ("An icon (ICO)", rb"\0\0[\x01\x02]\0[\x01-\x40]\0"),
    ("A Netpbm picture (PPM)", rb"P[1-7fF][\s#]"),
    ("OpenEXR", rb"v/1\x01"),
    ("Radiance HDR", rb"#\?R"),
    ("QOI", rb"qoif"),
    ("DICOM", rb".{128}DICM"),
    ("DjVu", rb"AT&TFORM"),
    ("MNG or JNG", rb"\x8a[MJ]NG|\x8bJNG"),
    ("BPG", rb"BPG\xfb"),
)
# A HEIF file names several brands: "mif1" first and "avif" among the others is an AVIF picture.
_READERS = (
    ("PNG", rb"\x89PNG", _png),
    ("JPEG", rb"\xff\xd8", _jpeg),
    ("GIF", rb"GIF8[79]a", _gif),
    ("BMP", rb"BM", _bmp),
    ("WebP", rb"RIFF....WEBP", _webp),
    ("TIFF", rb"II[*+]\0|MM\0[*+]", _tiff),
    ("AVIF", rb"....ftyp(?:....){0,4}avi[fs]", lambda data: Header("AVIF", 0, 0, 1, _AVIF_COST)),
)
