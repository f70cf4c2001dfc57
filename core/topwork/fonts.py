"""Fonts for texts of any script."""

from collections.abc import Iterable
from functools import lru_cache

#: A font that comes with matplotlib and has a box for every character.
LAST_RESORT = "Last Resort"


def families_for(texts: Iterable[str]) -> list[str]:
    """Return the installed font families that together have every character of ``texts``, the usual one first.

    Empty where they do not.
    """
    characters = frozenset(ord(character) for text in texts for character in text)
    return list(_families_for(characters - {ord("\n")}))  # a line break is no glyph


@lru_cache(maxsize=64)  # the same names are drawn again and again, and there may be thousands of fonts
def _families_for(characters: frozenset[int]) -> tuple[str, ...]:
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    usual = font_manager.FontProperties()
    families: list[str] = []
    missing = set(characters)
    fonts = {usual.get_name(): str(font_manager.findfont(usual))}
    others = (font for font in font_manager.fontManager.ttflist if not font.name.startswith(LAST_RESORT))
    fonts |= {font.name: font.fname for font in others if font.name not in fonts}
    for family, path in fonts.items():
        try:
            font = FT2Font(path)
        except (OSError, RuntimeError):
            continue  # its file is gone, or broken
        has = {character for character in missing if font.get_char_index(character)}
        if has or not families:
            families.append(family)
            missing -= has
        if not missing:
            return tuple(families)
    return ()
