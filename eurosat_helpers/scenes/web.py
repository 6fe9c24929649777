"""A land-cover map as one HTML file."""

from __future__ import annotations

import base64
import io
import math
import os
from html import escape
from pathlib import Path

import folium
import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import from_bounds
from rasterio.warp import (
    Resampling,
    calculate_default_transform,
    reproject,
    transform,
    transform_bounds,
)

from eurosat_helpers import files, plots
from eurosat_helpers.scenes.land_cover import NO_DATA, LandCover

EARTH = 6_378_137.0  # metres, radius at the equator
LARGEST = 4096  # pixels of the longer side of the overlay
# Leaflet, which draws the map, comes from the network. Without it the picture is there.
PAGE = """
<div id="picture" style="position:absolute; inset:0; background:white; overflow:auto">
<img src="data:image/png;base64,{picture}" style="max-width:100%"></div>
<script>if (typeof L !== "undefined") document.getElementById("picture").remove()</script>
"""


def web_map(land_cover: LandCover, file: str | os.PathLike[str], *, title: str = "") -> Path:
    """Write a map of the classes over OpenStreetMap, with a legend; return its path.

    The file needs nothing beside it. In a browser without a network it shows the figure of
    `plots.scene_map` in place of the interactive map.

    Args:
        land_cover: What `classify` returned; its GeoTIFF is read.
        file: Path of the HTML file, ending in `.html`; one that is there is replaced.
        title: The title of the figure.

    Raises:
        ValueError: If the scene had no georeference, or `file` has another ending.
        OSError: If the file cannot be written.
    """
    file = Path(file).expanduser()
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"`file` must end in .html. Received: {file}.")
    with rasterio.open(land_cover.file) as source:
        if source.crs is None:
            raise ValueError(
                "`land_cover` must have a georeference to be placed on a map. Received: none in "
                f"{land_cover.file}."
            )
        # The Mercator projection of web maps, but around the scene: no edge at 180 degrees.
        center = source.xy(source.height // 2, source.width // 2)
        middle = transform(source.crs, "EPSG:4326", *([value] for value in center))[0][0]
        mercator = CRS.from_string(f"+proj=merc +lon_0={middle} +a={EARTH} +b={EARTH}")
        grid = source.crs, mercator, source.width, source.height, *source.bounds
        _, width, height = calculate_default_transform(*grid)
        # Cells stay sharp: browsers smooth what they enlarge.
        factor = max(1, min(8, LARGEST // max(width, height)))
        width, height = factor * width, factor * height
        around = transform_bounds(source.crs, mercator, *source.bounds)
        cells = from_bounds(*around, width, height)  # GDAL's own leave out a part of the last cell
        classes = np.full((height, width), NO_DATA, np.uint8)
        reproject(
            rasterio.band(source, 1),
            classes,
            dst_transform=cells,
            dst_crs=mercator,
            resampling=Resampling.nearest,
        )
    (west, north), (east, south) = cells * (0, 0), cells * (width, height)
    west, east = (middle + math.degrees(x / EARTH) for x in (west, east))
    south, north = (math.degrees(math.atan(math.sinh(y / EARTH))) for y in (south, north))
    table = np.zeros((256, 4), np.uint8)
    for number, color in enumerate(plots.CLASS_COLORS[: len(land_cover.class_names)]):
        table[number] = *bytes.fromhex(color[1:]), 255
    page = folium.Map(attr="OpenStreetMap")
    bounds = [[south, west], [north, east]]
    folium.raster_layers.ImageOverlay(table[classes], bounds, opacity=0.6, name="classes").add_to(
        page
    )
    page.fit_bounds(bounds)
    folium.LayerControl(collapsed=False).add_to(page)
    rows = "".join(
        f'<div><span style="background:{plots.CLASS_COLORS[number]}">&emsp;</span>'
        f" {escape(name)}</div>"
        for number, name in enumerate(land_cover.class_names)
        if (land_cover.classes == number).any()
    )
    style = "position:fixed; bottom:2em; left:1em; z-index:1000; background:white; padding:.5em"
    body = page.get_root().html
    body.add_child(folium.Element(f'<div style="{style}">{rows}</div>'))
    figure = plots.scene_map(
        land_cover.picture,
        land_cover.classes,
        land_cover.confidence,
        land_cover.unfamiliarity > 1,
        land_cover.class_names,
        size=land_cover.size,
        cell_metres=land_cover.cell_metres,
        title=title,
    )
    figure.savefig(picture := io.BytesIO(), dpi=80)
    encoded = base64.b64encode(picture.getvalue()).decode()
    body.add_child(folium.Element(PAGE.format(picture=encoded)))
    files.write(file, page.get_root().render().encode())
    return file
