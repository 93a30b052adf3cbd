"""What `media` promises, on real files made here."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from support import clip_files as clips

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, NotFound, TooLarge, UnsupportedMedia
from qwen_vl.media.limits import BYTES_PER_MB, MAX_ASPECT_RATIO, MAX_KEPT_PIXELS
from qwen_vl.media.pictures import content_hash, load_data_uri, load_image

SETTINGS = Settings()
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def encode(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def red_and_blue(mode: str = "RGB") -> Image.Image:
    """40x20, the left half red and the right half blue."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(BLUE, (20, 0, 40, 20))
    return image.convert(mode)


def about(colour: tuple[int, int, int]):
    return pytest.approx(colour, abs=8)  # JPEG, CMYK and their like are not exact


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_formats(form):
    image = load_image(encode(red_and_blue(), form), SETTINGS)
    assert (image.mode, image.size) == ("RGB", (40, 20))
    assert image.getpixel((5, 10)) == about(RED)
    assert image.getpixel((35, 10)) == about(BLUE)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *[("RGBA", "PNG"), ("P", "PNG"), ("P", "GIF")],
        *[("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "JPEG")],
    ],
)
def test_colour_modes(mode, form):
    image = load_image(encode(red_and_blue(mode), form), SETTINGS)
    assert image.mode == "RGB"
    assert image.getpixel((5, 10)) == about(RED)
    assert image.getpixel((35, 10)) == about(BLUE)


@pytest.mark.parametrize(
    ("mode", "form"), [("1", "PNG"), ("L", "PNG"), ("L", "JPEG"), ("LA", "PNG")]
)
def test_grey_modes(mode, form):
    grey = Image.new("L", (16, 8), 0)
    grey.paste(255, (8, 0, 16, 8))
    image = load_image(encode(grey.convert(mode), form), SETTINGS)
    assert image.mode == "RGB"
    assert image.getpixel((2, 4)) == about((0, 0, 0))
    assert image.getpixel((13, 4)) == about(WHITE)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(form):
    values = np.array([[0, 257 * 64, 257 * 128, 65535]], np.uint16)
    image = load_image(encode(Image.fromarray(values), form), SETTINGS)
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 64, 128, 255]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_values_without_a_range_are_stretched(kind):
    values = np.array([[-1000, 0, 1000]], kind)
    image = load_image(encode(Image.fromarray(values), "TIFF"), SETTINGS)
    black, grey, white = (image.getpixel((x, 0))[0] for x in range(3))
    assert (black, white) == (0, 255)
    assert grey in (127, 128)
    flat = load_image(encode(Image.fromarray(np.full((2, 2), 7, kind)), "TIFF"), SETTINGS)
    assert flat.getpixel((0, 0)) == (0, 0, 0)


def test_values_that_are_no_numbers():
    values = np.array([[0, np.nan, np.inf, -np.inf, 10]], np.float32)
    image = load_image(encode(Image.fromarray(values), "TIFF"), SETTINGS)
    assert [image.getpixel((x, 0))[0] for x in range(5)] == [0, 0, 255, 0, 255]


def test_alpha_is_flattened_on_white():
    image = Image.new("RGBA", (3, 1))
    image.putpixel((0, 0), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    image.putpixel((2, 0), (0, 0, 0, 128))
    solid, clear, half = (load_image(encode(image), SETTINGS).getpixel((x, 0)) for x in range(3))
    assert (solid, clear) == (RED, WHITE)
    assert half == pytest.approx((127, 127, 127), abs=1)


def test_transparent_palette_and_greyscale_are_flattened_on_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    image = load_image(encode(palette, transparency=1), SETTINGS)
    assert [image.getpixel((x, 0)) for x in range(2)] == [RED, WHITE]
    grey = Image.new("L", (2, 1))
    grey.putdata([0, 9])
    image = load_image(encode(grey, transparency=9), SETTINGS)
    assert [image.getpixel((x, 0)) for x in range(2)] == [(0, 0, 0), WHITE]


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE, WHITE)]
    for form in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
        assert load_image(data, SETTINGS).getpixel((4, 4)) == about(RED)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "row_0", "column_0"),
    [  # the EXIF standard's table: at which side the stored first row and first column are shown
        (1, "top", "left"),
        (2, "top", "right"),
        (3, "bottom", "right"),
        (4, "bottom", "left"),
        (5, "left", "top"),
        (6, "right", "top"),
        (7, "right", "bottom"),
        (8, "left", "bottom"),
    ],
)
def test_exif_rotation(form, orientation, row_0, column_0):
    stored = Image.new("RGB", (48, 32), WHITE)
    stored.paste(RED, (0, 0, 16, 16))  # where the first row and the first column meet
    stored.paste(BLUE, (32, 0, 48, 16))  # the other end of the first row
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(encode(stored, form, exif=exif), SETTINGS)
    assert image.size == ((48, 32) if row_0 in ("top", "bottom") else (32, 48))
    far = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
    assert image.getpixel(corner(image, row_0, column_0)) == about(RED)
    assert image.getpixel(corner(image, row_0, far[column_0])) == about(BLUE)


def corner(image: Image.Image, *sides: str) -> tuple[int, int]:
    """The pixel five steps into the picture from the corner where two sides meet."""
    x = 5 if "left" in sides else image.width - 6
    return x, (5 if "top" in sides else image.height - 6)


def test_nothing_but_pixels_comes_out():
    """A photo's GPS position must not travel on, and decoding must not happen again later."""
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[1] = "N"
    image = load_image(encode(red_and_blue(), "JPEG", exif=exif, comment=b"hi"), SETTINGS)
    assert type(image) is Image.Image
    assert not image.info
    assert not dict(image.getexif())


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_that_cannot_be_read_does_not_cost_the_picture():
    data = encode(red_and_blue(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 9)
    assert load_image(data, SETTINGS).size == (40, 20)


def test_path(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(encode(red_and_blue()))
    assert load_image(path, SETTINGS).tobytes() == red_and_blue().tobytes()
    with pytest.raises(NotFound, match="Add it again"):
        load_image(tmp_path / "gone.png", SETTINGS)


# What is refused, and with which words


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_truncated_picture(form, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(Image.fromarray(noise), form)
    with pytest.raises(BadRequest, match="Save or download it again"):
        load_image(data[: int(len(data) * part)], SETTINGS)


@pytest.mark.filterwarnings("ignore")  # Pillow's own, about what it finds in there
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "AVIF"])
def test_damaged_picture_is_shown_or_refused(form):
    """Whatever bytes are wrong, a decoder's own error never gets out."""
    noise = np.random.default_rng(1)
    good = encode(Image.fromarray(noise.integers(0, 255, (24, 24, 3), np.uint8)), form)
    refused = 0
    for _ in range(150):
        data = np.frombuffer(good, np.uint8).copy()
        data[noise.integers(12, len(data), 8)] = noise.integers(0, 255, 8)
        try:
            assert load_image(data.tobytes(), SETTINGS).mode == "RGB"
        except (BadRequest, TooLarge, UnsupportedMedia):
            refused += 1
    assert refused


def test_truncated_jpeg_is_refused_although_pillow_could_fill_it_with_grey():
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    data = encode(red_and_blue().resize((400, 200)), "JPEG")
    with pytest.raises(BadRequest, match="its end is missing"):
        load_image(data[: len(data) * 2 // 3], SETTINGS)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.png"
    path.touch()
    for source in (b"", path):
        with pytest.raises(BadRequest, match="empty"):
            load_image(source, SETTINGS)


def test_picture_that_is_something_else(tmp_path):
    text = tmp_path / "note.png"
    text.write_text("just a text\n" * 20)
    with pytest.raises(UnsupportedMedia, match="PNG, JPEG, WebP"):
        load_image(text, SETTINGS)
    drawing = tmp_path / "drawing.png"
    drawing.write_text('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>')
    with pytest.raises(UnsupportedMedia, match="SVG"):
        load_image(drawing, SETTINGS)
    for suffix in clips.CODECS:
        path = clips.write(tmp_path / f"clip{suffix}", [clips.frame(1)] * 3)
        with pytest.raises(UnsupportedMedia, match="video"):
            load_image(path.rename(tmp_path / "clip.png"), SETTINGS)
    with pytest.raises(UnsupportedMedia, match="HEIC"):
        load_image(b"\0\0\0\x18ftypheic" + bytes(64), SETTINGS)


@pytest.mark.parametrize("form", ["PPM", "ICO", "PCX", "EPS", "PDF"])
def test_formats_that_are_not_read(form):
    """Fewer parsers, and none that starts another program (EPS does)."""
    with pytest.raises(UnsupportedMedia):
        load_image(encode(red_and_blue(), form), SETTINGS)


def test_limit_on_bytes_comes_before_decoding(tmp_path):
    path = tmp_path / "big.png"
    path.write_bytes(bytes(BYTES_PER_MB + 1))  # no picture at all, and nobody looks
    for source in (path, path.read_bytes()):
        with pytest.raises(TooLarge, match="1 MB"):
            load_image(source, Settings(max_image_mb=1))
    with pytest.raises(UnsupportedMedia):
        load_image(bytes(BYTES_PER_MB), Settings(max_image_mb=1))


def test_limit_on_pixels():
    data = encode(Image.new("1", (1000, 1001)))
    with pytest.raises(TooLarge, match="1 million pixels"):
        load_image(data, Settings(max_image_megapixels=1))
    assert load_image(encode(Image.new("1", (1000, 1000))), Settings(max_image_megapixels=1))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side_px", [9_000, 12_000, 30_000])
def test_decompression_bomb(side_px):
    """A small file that claims a huge picture; past 179 million pixels Pillow itself refuses."""
    tiny = bytearray(encode(Image.new("L", (1, 1)), "BMP"))
    tiny[18:22] = tiny[22:26] = side_px.to_bytes(4, "little")
    with pytest.raises(TooLarge, match="64 million pixels"):
        load_image(bytes(tiny), SETTINGS)


@pytest.mark.parametrize("size", [(1, 1), (1, MAX_ASPECT_RATIO), (MAX_ASPECT_RATIO, 1), (1, 3)])
def test_small_pictures(size):
    assert load_image(encode(Image.new("RGB", size)), SETTINGS).size == size


@pytest.mark.parametrize("size", [(20_000, 10), (10, 20_000), (1, MAX_ASPECT_RATIO + 1)])
def test_shapes_that_no_model_takes(size):
    with pytest.raises(BadRequest, match="200 times"):
        load_image(encode(Image.new("RGB", size)), SETTINGS)


# data: URIs


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_data_uri():
    for kind in ("image/png", "IMAGE/PNG", "image/jpeg;charset=x", "image/x-anything"):
        image = load_data_uri(uri(encode(red_and_blue()), kind), SETTINGS)
        assert image.tobytes() == red_and_blue().tobytes()


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1/a.png", "https://example.com/a.png", "file:///etc/passwd", "/etc/passwd",
     "ftp://example.com/a.png", "data:image/png,AAAA", "", "data:"],
)  # fmt: skip
def test_other_addresses(address):
    with pytest.raises(BadRequest, match=r"Only data: URIs"):
        load_data_uri(address, SETTINGS)


def test_base64_is_strict():
    good = uri(encode(red_and_blue()))
    for bad in (good[:-1] + "*", good[:60] + "=" + good[60:], good + "A", good + "é"):
        with pytest.raises(BadRequest, match="base64"):
            load_data_uri(bad, SETTINGS)
    with pytest.raises(BadRequest, match="empty"):
        load_data_uri("data:image/png;base64,", SETTINGS)
    with pytest.raises(UnsupportedMedia):
        load_data_uri(uri(b"just a text"), SETTINGS)


def test_data_uri_limit_on_bytes_comes_before_decoding():
    """Not even valid base64, and nobody looks; a picture of just the limit passes that check."""
    with pytest.raises(TooLarge, match="1 MB"):
        load_data_uri("data:image/png;base64," + "*" * (2 * BYTES_PER_MB), Settings(max_image_mb=1))
    for over, error in ((0, UnsupportedMedia), (3, TooLarge)):
        with pytest.raises(error):
            load_data_uri(uri(bytes(BYTES_PER_MB + over)), Settings(max_image_mb=1))


# Hashes


def test_content_hash():
    """Equal for equal pixels however they were stored; other pixels, size or shape change it."""
    image = red_and_blue()
    as_bmp = load_image(encode(image, "BMP"), SETTINGS)
    as_png = load_image(encode(image, "PNG"), SETTINGS)
    assert content_hash(as_bmp) == content_hash(as_png) == content_hash(image)
    other = image.copy()
    other.putpixel((0, 0), (254, 0, 0))
    turned = Image.frombytes("RGB", (20, 40), image.tobytes())
    assert len({content_hash(one) for one in (image, other, turned, image.convert("L"))}) == 4


def test_repository_pictures_are_accepted():
    folder = Path(__file__).parent.parent / "examples"
    for path in sorted([*folder.rglob("*.png"), *folder.rglob("*.jpg")]):
        assert load_image(path, SETTINGS).mode == "RGB", path


def test_more_pixels_than_a_model_sees_are_scaled_down() -> None:
    """Nothing larger is kept, and the shape and the content stay."""
    big = Image.new("RGB", (8000, 4000), "red")
    big.paste("blue", (4000, 0, 8000, 4000))
    kept = load_image(encode(big), SETTINGS)
    assert kept.width * kept.height <= MAX_KEPT_PIXELS
    assert kept.width / kept.height == pytest.approx(2, rel=0.001)
    assert kept.getpixel((10, 10)) == (255, 0, 0)
    assert kept.getpixel((kept.width - 10, 10)) == (0, 0, 255)
