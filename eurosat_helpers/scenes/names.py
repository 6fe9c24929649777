"""What names of products, files, tags and bands say about a scene."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

BANDS = ("B04", "B03", "B02")  # red, green, blue
_WORDS = dict(zip(("red", "green", "blue"), BANDS, strict=True))


def bands(descriptions: Sequence[str | None], colors: Sequence[str]) -> tuple[int, ...]:
    """Find red, green and blue among the bands of a file, by names, else by colors, else by place.

    Args:
        descriptions: One per band, such as "B4, 665 nm", "B04_median", "red B04" or "Red".
        colors: What the file says that each band shows, as GDAL calls it.

    Returns:
        Three numbers from 1; none if the bands have names of which three are not these colors, or
        have no names and are not three.
    """
    texts = [(text or "").strip() for text in descriptions]
    # Some formats name all bands by their place, "Layer_1"; "Band 4" as the first is another thing.
    silent = len(texts) == 3 and all(
        re.fullmatch(rf"(?:(?:band|layer)[ _]?{place})?", text.lower())
        for place, text in enumerate(texts, start=1)
    )
    named = [_band(text) for text in (colors if silent else texts)]
    if all(named.count(band) == 1 for band in BANDS):
        return tuple(1 + named.index(band) for band in BANDS)
    return (1, 2, 3) if silent else ()


def _band(text: str) -> str | None:
    # Neither those of other pixels nor masks have the reflectance at 10 m.
    other = r"(?![A-Za-z0-9]|_(?i:[26]0m|mask))"
    found = re.search(rf"(?<![A-Za-z0-9])B(\d\d?|8A){other}", text)
    word = text.lower().removesuffix("band").strip()
    return f"B{found[1].zfill(2)}" if found else _WORDS.get(word)


def band_of_file(stem: str, description: str | None) -> str | None:
    """Find the band that a file of one band holds: by its description, else by the file's name."""
    # A small b with one digit counts the bands of any file.
    number = re.search(r"(?:^|[_.-])(?:B(\d\d?|8A)|b(\d\d|8a))(?=[_.-]|$)", stem)
    color = re.search(r"(?:^|[_.-])(red|green|blue)$", stem.lower())
    named = f"B{(number[1] or number[2]).upper().zfill(2)}" if number else None
    return _band(description or "") or named or (_WORDS[color[1]] if color else None)


def level(text: str) -> str | None:
    """Find a level as products (S2A_MSIL2A), tags (Level-2A) and people (my_l2a) write it."""
    found = re.search(r"(?<![A-Z])(?:MSI)?L(?:EVEL-)?(1C|2A)(?![A-Z0-9])", text.upper())
    return found and f"L{found[1]}"


def level_of_file(path: Path) -> str | None:
    """Find the level in the name of a file, or of the product that it lies in."""
    names = [path.stem, *(name for name in path.parts if name.upper().endswith(".SAFE"))]
    # Products of level 1C name theirs T32TQM_20240704T101559_TCI; those of 2A add the pixel size.
    standard = re.fullmatch(r"T\w{5}_\d{8}T\d{6}_(?:TCI|B0[234])(_10m)?", path.stem)
    by_form = standard and ("L2A" if standard[1] else "L1C")
    return next(filter(None, map(level, names)), by_form)
