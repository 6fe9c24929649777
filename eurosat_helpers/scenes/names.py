"""What names of products, files, tags and bands say about a scene."""

from __future__ import annotations

import re
from pathlib import Path

BANDS = ("B04", "B03", "B02")  # red, green, blue
_WORDS = dict(zip(("red", "green", "blue"), BANDS, strict=True))


def band(description: str) -> str | None:
    """Find the band that a description names: "B4, 665 nm", "red B04" or "Red"."""
    found = re.search(r"(?<![A-Za-z0-9])B(\d\d?|8A)(?![A-Za-z0-9]|_(?!10m))", description)
    return f"B{found[1].zfill(2)}" if found else _WORDS.get(description.strip().lower())


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
