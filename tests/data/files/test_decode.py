"""Decoding: every kind of image becomes RGB, everything else is refused in words."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from groupnorm.data import DataError
from groupnorm.data.files import decode
from groupnorm.data.files.decode import UnreadableError, is_turned, read_rgb
from tests.data.files.image_trees import encoded, photo, png_of_size, write


def read(tmp_path, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_rgb(write(tmp_path / "image.jpg", data))


def far(first, second):
    """Largest mean difference of a channel."""
    difference = np.asarray(first).astype(float) - np.asarray(second).astype(float)
    return np.abs(difference).mean((0, 1)).max()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_rgb_in_every_format(tmp_path, kind):
    image, converted = read(tmp_path, encoded(photo(), kind))
    assert (image.mode, image.size, converted) == ("RGB", (40, 30), False)
    assert far(image, photo()) < 8  # JPEG and WEBP halve the colours' resolution
    image.load()  # nothing is left to be read from the file


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("1", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("LA", "PNG"),
     ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("RGBA", "WEBP")],
)  # fmt: skip
def test_other_modes_are_converted(tmp_path, mode, kind):
    source = photo().convert(mode)
    if mode == "RGBA":
        source.putalpha(200)
    image, converted = read(tmp_path, encoded(source, kind))
    assert (image.mode, converted) == ("RGB", True)
    assert far(image, source.convert("RGB")) < 8


def test_alpha_is_dropped_and_palette_transparency_warns_of_nothing(tmp_path):
    source = photo().convert("RGBA")
    source.putalpha(0)
    assert far(read(tmp_path, encoded(source, "PNG"))[0], photo()) == 0
    palette = photo().convert("P")
    image, _ = read(tmp_path, encoded(palette, "PNG", transparency=bytes([0, 128, 255])))
    assert far(image, palette.convert("RGB")) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, kind):
    grey = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    image, converted = read(tmp_path, encoded(Image.fromarray(grey), kind))
    assert converted
    expected = np.rint(grey / 257).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(image), expected[..., None].repeat(3, 2))


def damaged():
    whole = encoded(photo(0, (200, 150)))
    floats = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    integers = Image.fromarray(np.full((8, 8), 70_000, np.int32))
    return {
        "zero": (b"", "the file is empty"),
        "text": (b"<html>404 Not Found</html>", "not an image in JPEG, PNG"),
        "truncated": (whole[: len(whole) // 2], "truncated"),
        "head only": (whole[:20], "not an image|Truncated"),
        "holes": (b"\xff\xd8\xff\xe0" + bytes(500), "not an image|Truncated"),
        "png": (encoded(photo(), "PNG")[:-300], "truncated"),
        "postscript": (encoded(photo(), "EPS"), "not an image in JPEG, PNG"),
        "bomb": (png_of_size(20_000, 20_000), "DecompressionBombError"),
        "just too large": (png_of_size(8192, 8193), "8192 x 8193 pixels"),
        "ribbon": (encoded(photo(0, (402, 2))), "no side over 200 times"),
        "float": (encoded(floats, "TIFF"), "floating-point"),
        "int32": (encoded(integers, "TIFF"), "beyond 16 bits"),
    }


@pytest.mark.parametrize("name", damaged())
def test_what_cannot_be_decoded_says_why(tmp_path, name):
    data, message = damaged()[name]
    with pytest.raises(UnreadableError, match=message):
        read(tmp_path, data)


def test_no_byte_changed_at_random_does_more_than_be_refused(tmp_path):
    """Damaged files of all formats either decode or raise UnreadableError, nothing else."""
    rng = np.random.default_rng(0)
    refused = 0
    for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP"):
        whole = np.frombuffer(encoded(photo(), kind), np.uint8)
        for _ in range(40):
            data = whole.copy()
            places = rng.integers(0, min(len(data), 200), 4)
            data[places] = rng.integers(0, 256, 4)
            try:
                image, _ = read(tmp_path, data.tobytes())
            except UnreadableError:
                refused += 1
            else:
                assert image.mode == "RGB"
    assert 50 < refused < 280


def test_large_files_are_not_read_whole(tmp_path, monkeypatch):
    data = encoded(photo())
    monkeypatch.setattr(decode, "LARGEST_FILE", len(data))
    read(tmp_path, data)
    with pytest.raises(UnreadableError, match=f"more than {len(data):,} bytes"):
        read(tmp_path, data + b"\0")


def test_what_cannot_be_opened_is_another_matter(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*gone.jpg: No such file"):
        read_rgb(str(tmp_path / "gone.jpg"))


def test_the_first_frame_of_several(tmp_path):
    buffer = io.BytesIO()
    photo(1).save(buffer, "GIF", save_all=True, append_images=[photo(2)])
    image, _ = read(tmp_path, buffer.getvalue())
    assert far(image, photo(1)) < 12 < far(image, photo(2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_is_to_be_turned_is_known(tmp_path, kind):
    for value in (1, 3, 8, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        image, _ = read(tmp_path, encoded(photo(), kind, exif=exif))
        assert is_turned(image) == (value in (3, 8))
    assert not is_turned(read(tmp_path, encoded(photo(), kind))[0])


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"\xff" * 40])
def test_damaged_metadata_turns_nothing(tmp_path, exif):
    image, _ = read(tmp_path, encoded(photo(), "JPEG", exif=exif))
    assert not is_turned(image)
