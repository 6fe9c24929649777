"""A land-cover map in memory and in files."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pandas as pd
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from eurosat_helpers import files, plots

NO_DATA = 255


@dataclass(frozen=True)
class LandCover:
    """A land-cover map. Made by `mapping.classify`.

    Attributes:
        file: The GeoTIFF.
        picture: The scene as an overview, uint8 `(height, width, 3)`.
        classes: Number of the class per cell, uint8 `(rows, columns)`; 255 where there is no data.
        confidence: Its mean probability over the windows, float32 in 0-1, NaN without data.
        unfamiliarity: Divided by the threshold of the model: above 1 the class should not be used.
        class_names: The name of each number.
        hectares: Area of each cell, float64 `(rows, columns)`, NaN without a georeference.
        cell_metres: Width of a cell on the ground, NaN without a georeference.
        size: Height and width of the scene in cells, of which the last ones may be smaller.
    """

    file: Path
    picture: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    unfamiliarity: np.ndarray
    class_names: tuple[str, ...]
    hectares: np.ndarray
    cell_metres: float
    size: tuple[float, float]

    def areas(self) -> pd.DataFrame:
        """Sum up hectares per class, and how much of each is unfamiliar; the largest first."""
        rows = {}
        for number, name in enumerate(self.class_names):
            here = self.classes == number
            unlike = here & (self.unfamiliarity > 1)
            rows[name] = {
                "cells": here.sum(),
                "hectares": self.hectares[here].sum(),
                "unfamiliar hectares": self.hectares[unlike].sum(),
            }
        return pd.DataFrame(rows).T.astype({"cells": int}).sort_values("cells", ascending=False)


def write(
    land_cover: LandCover, tags: dict[str, object], crs: CRS | None, transform: Affine
) -> None:
    """Write the GeoTIFF, and beside it what the format cannot hold: colors and names."""
    percent = [100 * land_cover.confidence, np.minimum(100 * land_cover.unfamiliarity, 254)]
    layers = np.stack([land_cover.classes, *percent])
    layers = np.nan_to_num(np.rint(layers), nan=NO_DATA).astype(np.uint8)
    size = dict(zip(("count", "height", "width"), layers.shape, strict=True))
    # In memory: a full disk would cut such a file short without an error.
    with warnings.catch_warnings(), MemoryFile() as plain, MemoryFile() as cloud:
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with plain.open(
            driver="GTiff",
            dtype="uint8",
            nodata=NO_DATA,
            crs=crs,
            transform=transform,
            **size,
        ) as file:
            file.write(layers)
            file.update_tags(**tags)
            for band, text in enumerate(("class", "confidence, percent", "unfamiliarity, percent")):
                file.set_band_description(band + 1, text)
        options = {"compress": "DEFLATE", "resampling": "NEAREST"}
        rasterio.shutil.copy(plain.name, cloud.name, driver="COG", **options)
        content = bytes(cloud.getbuffer())
    colors = "".join(
        '<Entry c1="{}" c2="{}" c3="{}" c4="255"/>'.format(*bytes.fromhex(color[1:]))
        for color in plots.CLASS_COLORS[: len(land_cover.class_names)]
    )
    names = "".join(f"<Category>{escape(name)}</Category>" for name in land_cover.class_names)
    text = (
        '<PAMDataset><PAMRasterBand band="1"><ColorInterp>Palette</ColorInterp>'
        f"<ColorTable>{colors}</ColorTable><CategoryNames>{names}</CategoryNames>"
        "</PAMRasterBand></PAMDataset>"
    )
    endings = (".aux.xml", ".ovr", ".msk")  # GDAL would read them with the new map
    beside = [land_cover.file.with_name(f"{land_cover.file.name}{end}") for end in endings]
    aside = {file: file.with_name(f".{file.name}.replaced") for file in beside}
    for file in filter(Path.exists, beside):
        file.replace(aside[file])  # before the map: a process that is killed leaves no wrong names
    try:
        files.write(land_cover.file, content)
    except OSError:
        for file in beside:
            if aside[file].exists():
                aside[file].replace(file)
        raise
    files.write(beside[0], text.encode())
    for file in aside.values():
        file.unlink(missing_ok=True)
