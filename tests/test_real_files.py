"""Files as cameras, browsers and other programs write them: sound pixels are read, whatever else.

What is damaged is told from what is only odd, and from what is not read here.
"""

from __future__ import annotations

import base64
import struct
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw, PngImagePlugin
from support import clip_files as clips

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, TooLarge, UnsupportedMedia
from qwen_vl.media.clips import extract_keyframes
from qwen_vl.media.pictures import (
    as_data_uri,
    data_uri_bytes,
    load_data_uri,
    load_image,
    open_image,
)

SETTINGS = Settings()
RED = (255, 0, 0)


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Smooth colours and an edge, 96x64."""
    coarse = np.random.default_rng(3).integers(0, 255, (8, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((96, 64), Image.Resampling.BICUBIC)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    extra = b"".join(
        bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body for marker, body in segments
    )
    return data[:2] + extra + data[2:]


# Odd metadata


def test_png_with_much_or_broken_metadata(photo):
    plain = encode(photo)
    text, xmp = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 2**21, zip=True)
    xmp.add_itxt("XML:com.adobe.xmp", "y" * 2**21, zip=True)
    wrong = bytearray(chunk(b"tEXt", b"a\0bc"))
    wrong[-1] ^= 1
    odd = [
        encode(photo, pnginfo=text),
        encode(photo, pnginfo=xmp),
        encode(photo, icc_profile=bytes(3 * 2**20)),
        png_with(plain, bytes(wrong)),
        png_with(plain, chunk(b"iCCP", b"no profile at all")),
        png_with(
            plain, chunk(b"eXIf", b"no exif at all"), chunk(b"eXIf", b"II*\0\xff\xff\xff\xff")
        ),
        png_with(
            plain, chunk(b"zTXt", b"a\0\0not deflated"), chunk(b"pHYs", b""), chunk(b"gAMA", b"1")
        ),
        png_with(plain, *[chunk(b"tEXt", b"a\0b")] * 20_000),
        plain + b"a trailer that some program has put here",
    ]
    for data in odd:
        assert load_image(data, SETTINGS).tobytes() == photo.tobytes()


def test_jpeg_with_broken_metadata(photo):
    plain = encode(photo, "JPEG")
    seen = load_image(plain, SETTINGS).tobytes()
    odd = [
        jpeg_with(plain, (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 9)),
        jpeg_with(plain, (0xE2, b"ICC_PROFILE\0")),
        jpeg_with(
            plain, (0xE2, b"MPF\0" + bytes(20)), (0xED, b"Photoshop 3.0\x008BIM\xff\xff\xff")
        ),
        jpeg_with(plain, *[(0xEF, b"\xff\xd9\xff\xda" * 10_000)] * 20),
        jpeg_with(plain, (0xFE, b"\xff\xd8 a comment")),
        plain[:20] + b"stray bytes" + plain[20:],
        plain + b"\0" * 1000 + plain,
    ]
    for data in odd:
        assert load_image(data, SETTINGS).tobytes() == seen


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_broken_exif_in_other_formats(photo, form):
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    data = encode(photo, form, exif=exif)
    hurt = data.replace(b"II*\0", b"\xff\xff\xff\xff").replace(b"MM\0*", b"\xff\xff\xff\xff")
    assert hurt != data
    assert load_image(hurt, SETTINGS).tobytes() == load_image(data, SETTINGS).tobytes()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_turned_pictures_have_their_size_before_they_are_decoded(photo, form):
    exif = Image.Exif()
    exif[0x0112] = 6
    opened = open_image(encode(photo, form, exif=exif), SETTINGS)
    assert opened.size == (64, 96) == opened.decode().size


def test_orientation_in_xmp(photo):
    xmp = b'<x xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="8"/>'
    data = jpeg_with(encode(photo, "JPEG"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp))
    assert load_image(data, SETTINGS).size == open_image(data, SETTINGS).size == (64, 96)


def test_every_format_says_its_size_before_it_is_decoded(photo):
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        for image in (photo, photo.resize((1, 3)), photo.resize((255, 17))):
            opened = open_image(encode(image, form), SETTINGS)
            assert opened.size == image.size == opened.decode().size, form
    lossless = open_image(encode(photo, "WEBP", lossless=True), SETTINGS)
    assert lossless.size == photo.size == lossless.decode().size


# Ends that are missing


def test_pictures_whose_pixels_are_all_there(photo):
    for progressive in (False, True):
        plain = encode(photo, "JPEG", progressive=progressive)
        seen = load_image(plain, SETTINGS).tobytes()
        for cut in (1, 2):
            assert load_image(plain[:-cut], SETTINGS).tobytes() == seen
    plain = encode(photo)
    for cut in (1, 4, 12, 14):  # in IEND, or in the checksum before it
        assert load_image(plain[:-cut], SETTINGS).tobytes() == photo.tobytes()
    plain = encode(photo, "GIF")
    assert load_image(plain[:-1], SETTINGS).tobytes() == load_image(plain, SETTINGS).tobytes()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_jpegs_whose_pixels_are_not_all_there(photo, options):
    plain = encode(photo.resize((200, 150)), "JPEG", **options)
    for cut in (12, 60, len(plain) // 2):
        with pytest.raises(BadRequest, match="its end is missing"):
            load_image(plain[:-cut], SETTINGS)


# Not read here is not damaged


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xff\xd8\xff\xf7\0\x0b\x08\0\x40\0\x40\x01\x01\x11\0" + bytes(90), "JPEG-LS"),
        (b"\xff\xd8\xff\xc3\0\x0b\x08\0\x40\0\x40\x01\x01\x11\0" + bytes(90), "Lossless JPEG"),
        (b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x40\0\x40\x01\x01\x11\0" + bytes(90), "12 bits"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(90), "JPEG 2000"),
        (b"\xff\x4f\xff\x51" + bytes(90), "JPEG 2000"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(90), "JPEG XL"),
        (b"\xff\x0a" + bytes(90), "JPEG XL"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(90), "HEIC"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI" + bytes(90), "Apple"),
        (b"%PDF-1.7\n" + bytes(90), "PDF"),
        (b"8BPS\0\x01" + bytes(90), "Photoshop"),
    ],
)
def test_what_is_not_read_is_named(data, name):
    with pytest.raises(UnsupportedMedia, match=name):
        load_image(data, SETTINGS)


def test_tiffs_of_kinds_that_are_not_read():
    for bits, kind in ((64, 3), (24, 1)):
        tags = [(256, 4), (257, 4), (258, bits), (259, 1), (262, 1), (273, 200), (277, 1), (278, 4)]
        tags += [(279, 128), (339, kind)]
        body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(400)
        with pytest.raises(UnsupportedMedia, match="kind of TIFF"):
            load_image(data, SETTINGS)


# Drawings on nothing


@pytest.mark.parametrize("ink", ["white", "#f0f0c8", "black", "#c02020"])
def test_drawings_on_transparency_stay_readable(ink):
    image = Image.new("RGBA", (200, 60), (0, 0, 0, 0))
    ImageDraw.Draw(image).text((10, 10), "Hello there", fill=ink, font_size=32)
    for data in (encode(image), encode(image, "WEBP", lossless=True)):
        low, high = load_image(data, SETTINGS).convert("L").getextrema()
        assert high - low > 120


def test_light_ink_in_other_modes():
    grey = Image.new("LA", (40, 20), (0, 0))
    grey.paste((255, 255), (10, 5, 30, 15))
    palette = Image.new("P", (40, 20), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.paste(1, (10, 5, 30, 15))
    for data in (
        encode(grey),
        encode(palette, transparency=0),
        encode(palette, "GIF", transparency=0),
    ):
        image = load_image(data, SETTINGS)
        assert (image.getpixel((2, 2)), image.getpixel((20, 10))) == ((0, 0, 0), (255, 255, 255))


# data: URIs as clients write them


def test_data_uris_of_real_clients(photo):
    data = encode(photo)
    text = base64.b64encode(data).decode()
    escaped = text.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    spellings = [
        "data:image/png;base64," + base64.encodebytes(data).decode(),
        "data:image/png;base64," + base64.encodebytes(data).decode().replace("\n", "\r\n"),
        "data:image/png;base64, " + text + "\n",
        " \n data:image/png;base64," + text,
        "data:image/png;base64," + base64.urlsafe_b64encode(data).decode(),
        "data:image/png;base64," + text.rstrip("="),
        "data:image/png;base64," + escaped,
        "data:image;base64," + text,
        "data:application/octet-stream;base64," + text,
        "data:text/plain;base64," + text,
        "data:video/mp4;base64," + text,
        "data:;base64," + text,
        "data:base64," + text,
        'data:image/png;name="a, b.png";base64,' + text,
        "data:image/png; base64 ," + text,
        "DATA:IMAGE/PNG;BASE64," + text,
    ]
    for uri in spellings:
        assert load_data_uri(uri, SETTINGS).tobytes() == photo.tobytes(), uri[:50]
        assert data_uri_bytes(uri, "video", 1) == data
    assert load_data_uri(as_data_uri(data), SETTINGS).size == photo.size


@pytest.mark.parametrize("length", [0, 1, 2, 3, 10, 2**20 - 1, 2**20, 3 * 2**18 + 1, 2**21 + 5])
def test_base64_is_read_in_pieces(length):
    data = np.random.default_rng(length).bytes(length)
    for encoded in (base64.b64encode(data), base64.encodebytes(data)):
        assert data_uri_bytes("data:;base64," + encoded.decode(), "image", 3) == data


@pytest.mark.parametrize("filler", ["A", " ", "\n", "=", "%3D", ";", "data:", ";base64", '"'])
def test_large_texts_are_refused_at_once(filler):
    """A regular expression over such a text took 14 s; these are read once, or not at all."""
    text = filler * (20_000_000 // len(filler))
    for uri in ("data:image/png;base64," + text, "data:image/png;" + text, text):
        with pytest.raises((BadRequest, TooLarge)):
            open_image(data_uri_bytes(uri, "image", 1), SETTINGS)


# Clips


def red_clip(path: Path, codec: str, pixels: str = "yuv420p", size=(160, 96), **options) -> Path:
    """A red clip of a second."""
    with clips.same_priority(), av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=5, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        picture = np.full((size[1], size[0], 3), RED, np.uint8)
        for _ in range(5):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("av1.mp4", "libsvtav1", {}),
        ("tff.mp4", "libx264", {"x264-params": "tff=1"}),
        ("interlaced.mkv", "mpeg2video", {"flags": "+ilme+ildct"}),
        ("log.mp4", "libx264", {"x264-params": "transfer=log100"}),
        ("hdr.mp4", "libx264", {"x264-params": "transfer=smpte2084"}),
        ("rgb.mp4", "libx264rgb", {"pixels": "rgb24"}),
        ("deep.mkv", "ffv1", {"pixels": "yuv444p16le"}),
        ("odd.mkv", "ffv1", {"pixels": "yuv444p", "size": (161, 97)}),
    ],
)
def test_clips_of_many_codecs(tmp_path, name, codec, options):
    (frame,) = extract_keyframes(
        red_clip(tmp_path / name, codec, **options), "even", SETTINGS, count=1
    )
    corners = [(3, 3), (frame.image.width - 4, frame.image.height - 4)]
    for place in corners:
        assert frame.image.getpixel(place) == pytest.approx(RED, abs=12)


@pytest.mark.parametrize("matrix", ["ICtCp", "bt2020c"])
def test_colours_that_cannot_be_converted_are_refused(tmp_path, matrix):
    """OpenCV answered with whatever lay in its memory: another visitor's picture."""
    options = {"x264-params": f"colormatrix={matrix}"}
    path = red_clip(tmp_path / "clip.mp4", "libx264", **options)
    with pytest.raises(UnsupportedMedia, match=r"colours of this video \(yuv420p"):
        extract_keyframes(path, "even", SETTINGS)


def test_damage_in_the_middle_costs_only_what_is_damaged(tmp_path):
    noise = np.random.default_rng(0)
    pictures = clips.scenes([100])
    for picture in pictures:
        picture[:32] = noise.integers(0, 255, (32, 128, 3), np.uint8)
    path = clips.write(tmp_path / "hurt.avi", pictures)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    found = extract_keyframes(path, "interval", SETTINGS, every_s=0.5)
    shown = [clips.read_index(frame.image) for frame in found]
    assert len(found) >= 17
    assert shown[-1] >= 90
    assert all(
        abs(frame.time_s * 10 - index) <= 1 for frame, index in zip(found, shown, strict=True)
    )


def test_titles_in_any_encoding(tmp_path):
    path = clips.write(tmp_path / "clip.mkv", [clips.frame(7)] * 3)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Lavf", b"Caf\xe9"))
    assert b"Caf\xe9" in path.read_bytes()
    assert clips.facts(path, SETTINGS).frame_count == 3


def test_codecs_that_are_unknown_are_not_called_broken(tmp_path):
    path = clips.write(tmp_path / "clip.avi", [clips.frame(7)] * 3)
    path.write_bytes(path.read_bytes().replace(b"MJPG", b"zzzz"))
    with pytest.raises(UnsupportedMedia, match="codec"):
        extract_keyframes(path, "even", SETTINGS)


def test_containers_never_lead_to_other_files(tmp_path):
    """A MOV may keep its frames in another file: here, where they are, and readable."""
    path = clips.write(tmp_path / "secret.mov", [clips.frame(7)] * 3)
    data = path.read_bytes()
    at = data.index(b"url ")
    target = data[: at + 4] + b"\0\0\0\0" + data[at + 8 :]  # "not in this file"
    (tmp_path / "clip.mov").write_bytes(target)
    frames = extract_keyframes(tmp_path / "clip.mov", "even", SETTINGS)
    assert all(clips.read_index(frame.image) == 7 for frame in frames)
    for text in (b"#EXTM3U\n#EXTINF:1,\nsecret.mov\n", b"ffconcat version 1.0\nfile secret.mov\n"):
        for head in (b"\0\0\0\x18ftyp\n", b"\x1aE\xdf\xa3\n", b"RIFF\0\0\0\0AVI \n"):
            (tmp_path / "list.mp4").write_bytes(head + text)
            with pytest.raises((BadRequest, UnsupportedMedia)):
                extract_keyframes(tmp_path / "list.mp4", "even", SETTINGS)


def test_clips_that_grow_after_their_first_frames(tmp_path):
    """The frames that are too large are never decoded; those before them are there."""
    path = tmp_path / "grows.mov"
    small, large = encode(Image.new("RGB", (64, 64))), encode(Image.new("1", (3000, 3000)))
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for index, data in enumerate([small] * 5 + [large] * 3):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            out.mux(packet)
    frames = extract_keyframes(path, "interval", Settings(max_image_megapixels=4), every_s=0.1)
    assert [frame.image.size for frame in frames] == [(64, 64)] * 5
