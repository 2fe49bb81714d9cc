import io

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from gpuopt.report import png_bytes, save_png
from gpuopt.report.figures import INK, new_figure, write_head
from gpuopt.report.fonts import font


def figure_with_words():
    figure = new_figure(3, 2)
    write_head(figure, "Title", "subtitle " * 40)
    return figure


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_drawing_twice_gives_the_same_bytes_and_changes_no_settings():
    before = dict(mpl.rcParams)
    assert png_bytes(figure_with_words()) == png_bytes(figure_with_words())
    assert dict(mpl.rcParams) == before


def test_a_head_that_is_too_long_is_cut_before_the_edge():
    image = pixels(png_bytes(figure_with_words()))
    margin = image[:, -20:]
    assert (margin == 255).all()
    assert (image[:70] < 120).any()


def test_a_dollar_sign_is_no_formula():
    figure = new_figure(3, 1)
    write_head(figure, "$\\frac{$", "costs $5 or $6")
    assert (pixels(png_bytes(figure)) < 255).any()


def test_saving_replaces_the_file_in_one_piece(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    save_png(figure_with_words(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space"):
        save_png(new_figure(1, 1), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]


def test_fonts_are_found_without_a_warning():
    figure = new_figure(2, 1)
    figure.text(0.1, 0.5, "✓ ✗ □ … ·", fontproperties=font(10, "bold"), color=INK)
    assert (pixels(png_bytes(figure)) < 255).any()
