"""A font is found for any text that an installed one can write."""

import io

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

from topwork.fonts import LAST_RESORT, families_for

USUAL = font_manager.FontProperties().get_name()


def test_the_usual_font_is_enough_for_usual_texts() -> None:
    assert families_for(["caf\u00e9", "two\nlines", ""]) == [USUAL]


def test_texts_that_no_font_can_write_have_none() -> None:
    assert families_for(["a", "\U0010fffd"]) == []  # of a private plane


def test_another_font_is_added_for_what_the_usual_one_lacks() -> None:
    usual = FT2Font(font_manager.findfont(font_manager.FontProperties()))
    others = [font for font in font_manager.fontManager.ttflist if not font.name.startswith((USUAL, LAST_RESORT))]
    fonts = {font.name: FT2Font(font.fname) for font in others}
    lacking = {
        chr(code)
        for font in fonts.values()
        for code in font.get_charmap()
        if not usual.get_char_index(code) and chr(code).isprintable()
    }
    assert lacking, "matplotlib comes with several fonts"
    text = min(lacking)
    families = families_for(["a", text])
    assert families[0] == USUAL
    assert len(families) == 2
    figure = Figure()
    figure.text(0, 0, text, family=families)
    figure.savefig(io.BytesIO())  # warns, and so fails, of a character without a glyph
