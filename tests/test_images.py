"""Decoding: every mode, format and orientation people have, and every way a file can be broken."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import AvifImagePlugin, Image, features

from ccd.errors import CcdError
from ccd.images.decode import MAX_FILE_BYTES, decode, header, read_image, squash
from ccd.views.crops import crop_resized

RED = (255, 0, 0)
GREEN = (0, 255, 0)
BLUE = (0, 0, 255)
WHITE = (255, 255, 255)
AVIF = ["AVIF"] if features.check("avif") else []
FORMATS_WITH_EXIF = ("JPEG", "PNG", "WEBP", "TIFF", *AVIF)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def quarters(width: int = 40, height: int = 24) -> Image.Image:
    """Red, green / blue, white: no two corners look alike."""
    image = Image.new("RGB", (width, height), WHITE)
    for colour, x, y in ((RED, 0, 0), (GREEN, 1, 0), (BLUE, 0, 1)):
        image.paste(colour, (x * width // 2, y * height // 2, (x + 1) * width // 2, (y + 1) * height // 2))
    return image


def near(pixel: object, colour: tuple[int, int, int], tolerance: int = 12) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - np.asarray(colour)).max() <= tolerance)


@pytest.mark.parametrize("kind", FORMATS_WITH_EXIF)
@pytest.mark.parametrize(
    ("orientation", "top_left", "top_right"),
    # What a viewer shows in the upper corners, from the EXIF definition of where row 0 and column 0 lie.
    [
        *[(1, RED, GREEN), (2, GREEN, RED), (3, WHITE, BLUE), (4, BLUE, WHITE)],
        *[(5, RED, BLUE), (6, BLUE, RED), (7, WHITE, GREEN), (8, GREEN, WHITE)],
    ],
)
def test_exif_orientation_is_applied(
    kind: str, orientation: int, top_left: tuple[int, int, int], top_right: tuple[int, int, int]
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(quarters(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode(data, "x")
    assert image.size == ((40, 24) if orientation < 5 else (24, 40))
    assert near(image.getpixel((3, 3)), top_left)
    assert near(image.getpixel((image.width - 4, 3)), top_right)
    assert header(data, "x") == image.size


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_senseless_orientation_means_upright(value: int) -> None:
    exif = Image.Exif()
    exif[274] = value
    assert decode(encoded(quarters(), "JPEG", exif=exif), "x").size == (40, 24)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_cost_the_image() -> None:
    data = encoded(quarters(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff garbage")
    assert decode(data, "x").size == (40, 24)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("L", (5, 4), 100), "PNG", (100, 100, 100)),
        (Image.new("1", (5, 4), 1), "PNG", WHITE),
        (Image.new("LA", (5, 4), (10, 0)), "PNG", WHITE),
        (Image.new("RGBA", (5, 4), (255, 0, 0, 255)), "PNG", RED),
        (Image.new("RGBA", (5, 4), (0, 0, 0, 102)), "WEBP", (153, 153, 153)),
        (Image.new("RGB", (5, 4), BLUE).convert("P"), "GIF", BLUE),
        (Image.new("RGB", (5, 4), BLUE), "BMP", BLUE),
        (Image.new("RGB", (5, 4), BLUE), "PPM", BLUE),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", RED),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF", RED),
        (Image.new("YCbCr", (16, 16), (255, 128, 128)), "JPEG", WHITE),
    ],
)
def test_modes_become_rgb(image: Image.Image, kind: str, expected: tuple[int, int, int]) -> None:
    decoded = decode(encoded(image, kind), "x", min_size=16)
    assert (decoded.mode, decoded.size) == ("RGB", image.size)
    assert near(decoded.getpixel((2, 2)), expected)


def test_transparent_palette_entry_is_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    decoded = decode(encoded(palette, "PNG", transparency=1), "x")
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257 * 100, 300, 65535]], np.uint16)
    decoded = np.asarray(decode(encoded(Image.fromarray(values), kind), "x"))
    assert decoded[0, :, 0].tolist() == [0, 100, 1, 255]


def test_floats_are_stretched_over_their_own_range() -> None:
    values = np.array([[-1.0, 0.0, 3.0]], np.float32)
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), "x"))[0, :, 0].tolist() == [0, 64, 255]


def test_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for kind in ("GIF", "WEBP", "PNG", "MPO", *AVIF):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert near(decode(data, "x").getpixel((4, 4)), RED), kind


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes(size: tuple[int, int]) -> None:
    image = decode(encoded(Image.new("RGB", size, BLUE), "JPEG"), "x", min_size=64)
    squashed = squash(image, 16, 24)
    assert squashed.shape == (3, 16, 24)
    assert near(squashed[:, 8, 8], BLUE)


def test_large_photo_is_decoded_at_a_fraction_not_below_the_asked_size() -> None:
    data = encoded(quarters(6000, 4000), "JPEG")
    assert decode(data, "x").size == (6000, 4000)
    assert decode(data, "x", min_size=448).size == (750, 500)
    assert decode(data, "x", min_size=501).size == (1500, 1000)


def test_squash_and_crop_are_channels_first() -> None:
    image = quarters(40, 24)
    squashed = squash(image, 8, 12)
    assert (squashed.shape, squashed.dtype.name, squashed.flags["C_CONTIGUOUS"]) == ((3, 8, 12), "uint8", True)
    assert near(squashed[:, 0, 11], GREEN)
    crop = crop_resized(image, (20.0, 0.0, 40.0, 12.0), 6, 6)
    assert crop.shape == (3, 6, 6)
    assert (crop[:, 1:5, 1:5] == np.array(GREEN)[:, None, None]).all()


def test_crop_is_clipped_and_sub_pixel() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 200, 10, dtype=np.uint8)[None, :, None], (4, 1, 3)))
    assert np.array_equal(
        crop_resized(ramp, (-50.0, -9.0, 10.0, 4.0), 4, 10),
        crop_resized(ramp, (0.0, 0.0, 10.0, 4.0), 4, 10),
    )
    # Half a pixel to the right on a ramp of 10 per pixel is 5 brighter (inside, away from the box's edges).
    shift = crop_resized(ramp, (4.5, 0.0, 14.5, 4.0), 4, 10).astype(int)
    base = crop_resized(ramp, (4.0, 0.0, 14.0, 4.0), 4, 10).astype(int)
    assert (shift - base)[:, :, 3:7].tolist() == [[[5] * 4] * 4] * 3


@pytest.mark.parametrize(
    "box", [(5, 5, 5, 9), (50, 0, 60, 4), (9, 0, 3, 4), (0, 0, float("nan"), 4), (0, 0, float("inf"), 4)]
)
def test_box_without_area_is_an_error(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(CcdError, match="no area inside the image of 40 x 24"):
        crop_resized(quarters(), box, 4, 4)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def test_pixel_limit_is_ours_and_pillow_keeps_its_own(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert header(png_claiming(16384, 16384), "fits.png") == (16384, 16384)
    bomb = png_claiming(16385, 16384)
    (tmp_path / "bomb.png").write_bytes(bomb)
    for attempt in (lambda: header(bomb, "bomb.png"), lambda: read_image(tmp_path / "bomb.png")):
        with pytest.raises(CcdError, match=r"bomb\.png: 16385 x 16384.*256 megapixels"):
            attempt()
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page or XML, probably a failed download"),
        (b"\n<HTML><body>404</body></HTML>", "a web page"),
        (b"plain text, no image", "not an image of a known format"),
        (encoded(quarters(400, 300), "JPEG")[:900], "damaged or truncated"),
        (encoded(quarters(400, 300), "PNG")[:150], "damaged or truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    ],
)
def test_broken_files_are_named_with_the_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(CcdError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("orientation", "corner"), [(1, RED), (3, WHITE), (5, RED), (6, BLUE), (8, GREEN)])
def test_heic_is_turned_once(orientation: int, corner: tuple[int, int, int]) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = quarters(160, 96)
    exif = Image.Exif()
    exif[274] = orientation
    picture.info["exif"] = exif.tobytes()
    pillow_heif.register_heif_opener()  # to write it
    data = encoded(picture, "HEIF", quality=90)
    threads = pillow_heif.options.DECODE_THREADS
    image = decode(data, "x", min_size=8)
    assert image.size == header(data, "x") == ((160, 96) if orientation < 5 else (96, 160))
    assert near(image.getpixel((9, 9)), corner)
    assert threads == pillow_heif.options.DECODE_THREADS


@pytest.mark.skipif(not AVIF, reason="this Pillow has no AVIF")
def test_avif_is_decoded_by_one_thread_and_pillow_keeps_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(quarters(), "AVIF")
    asked = []
    whole = AvifImagePlugin._get_default_max_threads
    monkeypatch.setattr(AvifImagePlugin, "_get_default_max_threads", lambda: (asked.append(whole()), asked[-1])[1])
    before = AvifImagePlugin.DEFAULT_MAX_THREADS
    decode(data, "x")
    assert asked == [1] and before == AvifImagePlugin.DEFAULT_MAX_THREADS


@pytest.mark.skipif(not AVIF, reason="this Pillow has no AVIF")
def test_a_truncated_avif_is_damaged_not_unknown() -> None:
    data = encoded(quarters(400, 300), "AVIF")
    for keep in (40, len(data) // 2, len(data) - 9):
        with pytest.raises(CcdError, match="x: damaged or truncated"):
            decode(data[:keep], "x")


def test_the_content_decides_the_format_whatever_the_name(tmp_path: Path) -> None:
    for name, kind in (("IMG_1.HEIC", "JPEG"), ("z.avif", "PNG"), ("a.jpg", "WEBP"), ("b.png", "DIB")):
        (tmp_path / name).write_bytes(encoded(quarters(), kind))
        assert read_image(tmp_path / name).size == (40, 24), name


def test_header_names_files_that_are_no_image() -> None:
    for name, data, reason in (("a", b"", "is empty"), ("b", b"nothing", "not an image"), ("c", b"<html>", "web page")):
        with pytest.raises(CcdError, match=f"{name}: .*{reason}"):
            header(data, name)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(CcdError, match=r"gone\.jpg: cannot be read \(No such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(CcdError, match="a folder, not a file"):
        read_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    with pytest.raises(CcdError, match=r"pipe\.jpg: a pipe or device, not a file"):
        read_image(tmp_path / "pipe.jpg")


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    with pytest.raises(CcdError, match=r"huge\.jpg: 2147483649 .*2147483648"):
        read_image(tmp_path / "huge.jpg")


def test_file_of_another_size_than_indexed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(quarters()))
    size = path.stat().st_size
    assert read_image(path, expected_bytes=size).size == (40, 24)
    with pytest.raises(CcdError, match=r"changed since index.*`dvc repro -f -s index`.*`dvc repro`"):
        read_image(path, expected_bytes=size + 1)


SEEDS = [encoded(quarters(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "PPM", *AVIF)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
def test_damaged_bytes_give_an_image_or_a_ccd_error(data: bytes, edits: list[tuple[float, int]], keep: float) -> None:
    damaged = bytearray(data)
    for where, value in edits:
        damaged[int(where * len(damaged))] = value
    try:
        assert decode(bytes(damaged[: max(1, int(keep * len(damaged)))]), "x").mode == "RGB"
    except CcdError as error:
        assert str(error).startswith("x: ")
