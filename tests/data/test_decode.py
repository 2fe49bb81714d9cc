import io
import multiprocessing
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpuopt.data import UnreadableImageError, decode, decode_image
from gpuopt.data.decode import MAX_PIXELS

RED, GREEN, BLUE, WHITE = (250, 10, 10), (10, 250, 10), (10, 10, 250), (255, 255, 255)


def corners(size=(60, 40)):
    """Red at the upper left, green at the upper right, blue below."""
    image = Image.new("RGB", size, BLUE)
    half = (size[0] // 2, size[1] // 2)
    image.paste(RED, (0, 0, *half))
    image.paste(GREEN, (half[0], 0, size[0], half[1]))
    return image


def colour(decoded, x, y):
    return tuple(int(v) for v in decoded[:, y, x])


def near(found, wanted, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


def test_letterbox_keeps_the_aspect_centres_and_fills_white(tmp_path):
    corners().save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", 30)
    assert decoded.shape == (3, 30, 30)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert colour(decoded, 15, 2) == WHITE
    assert colour(decoded, 15, 27) == WHITE
    assert near(colour(decoded, 3, 8), RED)
    assert near(colour(decoded, 26, 8), GREEN)
    assert near(colour(decoded, 15, 22), BLUE)
    assert (decoded == 255).all(axis=0).any(axis=1).sum() == 10  # 30 wide, so 20 high


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (1, 1), (7, 5)])
def test_odd_shapes(tmp_path, size):
    Image.new("RGB", size, (0, 0, 0)).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", 32)
    assert decoded.shape == (3, 32, 32)
    assert decoded.min() < 128


def test_antialiased(tmp_path):
    """One-pixel stripes become grey, not stripes of another width."""
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    assert np.abs(decode_image(tmp_path / "a.png", 16).astype(int) - 128).max() < 40


def test_reduced_jpeg_looks_like_the_whole_one(tmp_path):
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    small.resize((900, 1200), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        whole = np.asarray(image.resize((96, 128), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    decoded = decode_image(tmp_path / "a.jpg", 128)[:, :, 16:112]
    assert np.abs(decoded.astype(int) - whole).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_exif_orientation(tmp_path, orientation, ending):
    upright = corners()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{ending}", exif=exif)
    decoded = decode_image(tmp_path / f"a.{ending}", 60)
    assert near(colour(decoded, 8, 15), RED)
    assert near(colour(decoded, 52, 15), GREEN)
    assert near(colour(decoded, 30, 45), BLUE)
    assert colour(decoded, 30, 2) == WHITE


def test_broken_exif_does_not_matter(tmp_path):
    corners().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert near(colour(decode_image(tmp_path / "a.jpg", 60), 8, 15), RED)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((10, 10, 10, 255), (0, 0, 10, 20))
    if mode == "P":
        image = image.convert("RGB").quantize(4)
        image.info["transparency"] = image.getpixel((15, 10))
        image.putpixel((0, 0), image.getpixel((15, 10)))
        image = Image.new("P", (20, 20), 1)
        image.putpalette([10, 10, 10, 0, 0, 0])
        image.paste(0, (0, 0, 10, 20))
        image.save(tmp_path / "a.png", transparency=1)
    elif mode == "PA":
        image.convert("LA").save(tmp_path / "a.png")
    else:
        image.convert(mode).save(tmp_path / "a.png")
    decoded = decode_image(tmp_path / "a.png", 20)
    assert near(colour(decoded, 15, 10), WHITE)
    assert near(colour(decoded, 3, 10), (10, 10, 10))


def test_half_transparent_grey(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert near(colour(decode_image(tmp_path / "a.png", 8), 4, 4), (127, 127, 127), 2)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.jpg", "CMYK"), ("a.tif", "CMYK"), ("a.jpg", "L"), ("a.gif", "P"), ("a.bmp", "1"),
     ("a.tif", "LAB"), ("a.webp", "RGB"), ("a.ppm", "RGB"), ("a.jp2", "RGB"), ("a.avif", "RGB")],
)  # fmt: skip
def test_colour_models_and_formats(tmp_path, name, mode):
    image = Image.new("RGB", (32, 32), (255, 255, 255))
    image.paste((0, 0, 0), (0, 0, 16, 32))
    if mode == "LAB":
        lab = Image.new("LAB", (32, 32), (255, 128, 128))
        lab.paste((0, 128, 128), (0, 0, 16, 32))
        image = lab
    else:
        image = image.convert(mode)
    image.save(tmp_path / name)
    decoded = decode_image(tmp_path / name, 32)
    assert decoded[:, 16, 4].max() < 60
    assert decoded[:, 16, 28].min() > 195


def test_sixteen_bit_grey_keeps_its_shades(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, 0)
    for name in ("a.png", "a.tif"):
        Image.fromarray(ramp).save(tmp_path / name)
        decoded = decode_image(tmp_path / name, 64)[0, 32].astype(int)
        assert np.abs(decoded - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 65535.0])
def test_float_and_long_grey_keep_their_shades(tmp_path, top):
    ramp = np.linspace(0, top, 64)[None].repeat(64, 0)
    kinds = [np.float32] if top == 1.0 else [np.float32, np.int32]
    for kind in kinds:
        Image.fromarray(ramp.astype(kind)).save(tmp_path / "a.tif")
        decoded = decode_image(tmp_path / "a.tif", 64)[0, 32].astype(int)
        assert np.abs(decoded - np.linspace(0, 255, 64)).max() <= 1.01


def empty(path):
    path.touch()


def truncated_jpeg(path):
    corners((300, 200)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def truncated_png(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def html(path):
    path.write_text("<!DOCTYPE html><html><body>404 Not Found</body></html>")


def bomb(path):
    """A PNG header that claims 60,000 x 60,000 pixels."""
    header = b"\0\0\xea\x60\0\0\xea\x60\x08\x02\0\0\0"
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000)))]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def postscript(path):
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file\n")


def broken_link(path):
    path.symlink_to(path.with_name("nowhere.jpg"))


def folder(path):
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (empty, "not an image"),
        (truncated_jpeg, "truncated"),
        (truncated_png, "truncated|broken"),
        (html, "not an image"),
        (bomb, "too many"),
        (postscript, "not an image"),
        (broken_link, "no such file"),
        (folder, "directory"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, spoil, reason):
    path = tmp_path / "a.jpg"
    spoil(path)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode_image(path, 32)
    assert "\n" not in str(caught.value)


def test_more_pixels_than_pillows_warning_limit_are_fine_below_ours(tmp_path):
    side = 9500  # 90 million: Pillow warns from 89 million on
    assert side**2 < MAX_PIXELS
    Image.new("1", (side, side), 1).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", 8).min() == 255


@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
def test_what_would_keep_its_reader_waiting_is_not_read(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.png").symlink_to(target)
    with pytest.raises(UnreadableImageError, match="no regular file"):
        decode_image(tmp_path / "a.png", 32)


def test_permission_error_is_worded(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(UnreadableImageError, match=r"^permission denied$"):
        decode_image(Path("a.png"), 8)


@pytest.mark.parametrize("size", [(96, 128), (131, 97), (201, 303), (333, 257), (63, 64)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_way_to_decode_gives_the_same_picture(tmp_path, monkeypatch, size, mode):
    noise = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
    picture.save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        image.save(tmp_path / "a.png")
    for image_size in (40, 64, 100):
        first = decode_image(tmp_path / "a.jpg", image_size).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(decode, "_torchvision_decoder", lambda: None)
            second = decode_image(tmp_path / "a.jpg", image_size).astype(int)
        whole = decode_image(tmp_path / "a.png", image_size).astype(int)
        assert np.abs(first - second).max() <= 4
        assert np.abs(first - whole).mean() < 2


def test_torchvision_decodes_small_reductions_only(tmp_path, monkeypatch):
    calls = []
    real = decode._decoded_by_torchvision
    monkeypatch.setattr(
        decode, "_decoded_by_torchvision", lambda path: calls.append(path) or real(path)
    )
    corners((384, 288)).save(tmp_path / "a.jpg")
    for image_size, wanted in ((128, 0), (192, 0), (224, 1), (500, 2)):
        decode_image(tmp_path / "a.jpg", image_size)
        assert len(calls) == wanted


def damaged():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return bytearray(buffer.getvalue())


def test_a_jpeg_cut_anywhere_is_judged_as_pillow_does(tmp_path, monkeypatch):
    whole, path = damaged(), tmp_path / "a.jpg"
    for length in [*range(2, len(whole), len(whole) // 25), *range(len(whole) - 4, len(whole))]:
        path.write_bytes(whole[:length])
        outcomes = []
        for decoder in (decode._torchvision_decoder, lambda: None):
            with monkeypatch.context() as patch:
                patch.setattr(decode, "_torchvision_decoder", decoder)
                try:
                    decode_image(path, 224)
                    outcomes.append("read")
                except UnreadableImageError as error:
                    outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


def test_damaged_data_is_not_complained_of_in_workers(tmp_path, monkeypatch, capfd):
    data, path = damaged(), tmp_path / "a.jpg"
    middle = len(data) // 2
    path.write_bytes(data[:middle] + data[middle + 200 :])
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    assert decode_image(path, 224).shape == (3, 224, 224)
    assert capfd.readouterr().err == ""
    decode.os.write(2, b"still open")
    assert capfd.readouterr().err == "still open"
