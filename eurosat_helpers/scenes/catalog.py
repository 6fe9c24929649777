"""Find a scene in a STAC service and read the part of it that is asked for."""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import rasterio
import rasterio.warp
import requests
from matplotlib.path import Path as Outline
from rasterio.errors import RasterioIOError
from rasterio.io import MemoryFile
from rasterio.windows import Window, from_bounds

from eurosat_helpers import files
from eurosat_helpers.scenes.scene import REMOTE

if TYPE_CHECKING:
    import pystac

EARTH_SEARCH = "https://earth-search.aws.element84.com/v1"
# Collection 1, whose items state scale and offset; those of "sentinel-2-l2a" there state an offset
# for some files that have it applied already (Element84/earth-search, issues 66 and 71).
COLLECTION = "sentinel-2-c1-l2a"
COLORS = ("red", "green", "blue")  # names of the assets, in the order B04, B03, B02
MOST = 500  # items that are compared


def fetch(
    box: Sequence[float],
    dates: str,
    output: str | os.PathLike[str],
    *,
    service: str = EARTH_SEARCH,
    collection: str = COLLECTION,
) -> pd.Series:
    """Find the least cloudy scene over a box and read red, green and blue of it into a GeoTIFF.

    Only the blocks of the cloud-optimized files that the box touches are transferred. The GeoTIFF
    holds the digital numbers, and scale, offset and level as tags, as `classify` reads them. It is
    written completely or not at all.

    Args:
        box: West, south, east, north in degrees, not across 180 degrees.
        dates: First and last day, such as "2024-06-01/2024-08-31", or one day.
        output: Path of the GeoTIFF, ending in `.tif`.
        service: Address of a STAC API.
        collection: A collection there with reflectance of Sentinel-2 at 10 m; one of level 1C has
            "l1c" in its name.

    Returns:
        What was chosen: `scene`, `date`, `cloud cover` of the complete scene in percent, `scale`,
        `offset`, `level`, `pixels` (height x width).

    Raises:
        ValueError: If an argument is not as described or the service refuses it, if no scene of
            these days contains the box or too many do, or if an item states no scale.
        ConnectionError: If the service or a file cannot be reached.
        ImportError: If pystac-client is not installed, which nothing else needs.
    """
    try:
        from pystac_client import Client
        from pystac_client.exceptions import APIError
    except ImportError as error:
        message = "`scenes.fetch` needs pystac-client: pip install pystac-client"
        raise ImportError(message) from error
    output, box = Path(output).expanduser(), _checked(box, dates)
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"`output` must end in .tif. Received: {output}.")
    try:
        search = Client.open(service, timeout=REMOTE["GDAL_HTTP_CONNECTTIMEOUT"]).search(
            collections=[collection], bbox=box, datetime=dates, max_items=MOST
        )
        items = list(search.items())
        if len(items) == MOST:  # the clearest may be among those that were not sent
            raise ValueError(f"`dates` must be shorter: {MOST} scenes or more. Received: {dates}.")
        inside = [item for item in items if _contains(item.geometry, box)]
        if not inside:
            raise ValueError(
                f"`box` must lie within one scene, with one in `dates`. Received: {box}, "
                f"{dates}; {len(items)} scenes touch it, and none contains it."
            )
        covers = [item.properties.get("eo:cloud_cover") for item in inside]
        item = inside[np.argsort(np.array(covers, float))[0]]  # unknown ones last
        scale, offset = _numbers(item)  # before anything is transferred
        pixels, profile = _read(item, box)
    except (requests.RequestException, APIError, RasterioIOError, JSONDecodeError) as error:
        if 400 <= (getattr(error, "status_code", None) or 0) < 500:
            refused = f"`{service}` refuses `box`, `dates` or `collection`: {error}"
            raise ValueError(refused) from error
        raise ConnectionError(
            f"`{service}` or its files cannot be reached, which needs a network. Without one, pass "
            f"`scenes.classify` a file that you have. {error}"
        ) from error
    level = "L1C" if "l1c" in collection.lower() else "L2A"
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            file.write(pixels)
            file.scales, file.offsets = (scale,) * 3, (offset,) * 3
            file.update_tags(scene=item.id, service=service, level=level)
        files.write(output, memory.getbuffer())
    return pd.Series(
        {
            "scene": item.id,
            "date": f"{item.datetime:%Y-%m-%d}",
            "cloud cover": item.properties.get("eo:cloud_cover"),
            "scale": scale,
            "offset": offset,
            "level": level,
            "pixels": f"{pixels.shape[1]} x {pixels.shape[2]}",
        },
        name=collection,
    )


def _checked(box: Sequence[float], dates: str) -> list[float]:
    try:
        west, south, east, north = corners = [float(number) for number in box]
    except (TypeError, ValueError):
        corners = None
    if corners is None or not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise ValueError(
            "`box` must be west, south, east, north in degrees; split one across 180 degrees. "
            f"Received: {box!r}."
        )
    try:
        days = [datetime.date.fromisoformat(day) for day in dates.split("/")]
    except (ValueError, AttributeError):  # the latter: no text
        days = []
    if len(days) not in (1, 2) or days != sorted(days):
        raise ValueError(
            '`dates` must be a first and a last day, such as "2024-06-01/2024-08-31". '
            f"Received: {dates!r}."
        )
    return corners


def _contains(footprint: dict | None, box: Sequence[float]) -> bool:
    """Whether the outline of the pixels with data, as GeoJSON, contains the corners of a box."""
    if footprint is None:
        return False
    polygons = footprint["coordinates"]
    polygons = polygons if footprint["type"] == "MultiPolygon" else [polygons]
    west, south, east, north = box
    corners = [(west, south), (east, south), (east, north), (west, north)]
    outlines = [Outline([point[:2] for point in outer]) for outer, *_ in polygons]
    return any(outline.contains_points(corners).all() for outline in outlines)


def _numbers(item: pystac.Item) -> tuple[float, float]:
    """Read scale and offset of an item: of its bands, in the words of STAC 1.0 or 1.1."""
    if not set(COLORS) <= set(item.assets):
        names = f"Received: {', '.join(item.assets)}"
        raise ValueError(f"`{item.id}` must have the assets {', '.join(COLORS)}. {names}.")
    about = item.assets[COLORS[0]].extra_fields
    first = about | (about.get("raster:bands") or about.get("bands") or [{}])[0]
    scale = first.get("scale", first.get("raster:scale"))
    offset = first.get("offset", first.get("raster:offset", 0.0))
    if scale is None:
        raise ValueError(f"`{item.id}` must state the scale of its numbers. Received: {first}.")
    # The words of Earth Search for numbers that were shifted already.
    applied = item.properties.get("earthsearch:boa_offset_applied", False)
    return float(scale), 0.0 if applied else float(offset)


def _read(item: pystac.Item, box: Sequence[float]) -> tuple[np.ndarray, dict[str, object]]:
    layers = []
    with rasterio.Env(**REMOTE):
        for color in COLORS:
            with rasterio.open(item.assets[color].href) as file:
                bounds = rasterio.warp.transform_bounds("EPSG:4326", file.crs, *box)
                rows, columns = from_bounds(*bounds, file.transform).toranges()
                rows, columns = ((math.floor(a), math.ceil(b)) for a, b in (rows, columns))
                window = Window.from_slices(rows, columns, boundless=True)
                window = window.intersection(Window(0, 0, file.width, file.height))
                layers.append(file.read(1, window=window))
                profile = {"crs": file.crs, "transform": file.window_transform(window)}
                profile |= {"dtype": file.dtypes[0], "nodata": 0, "count": 3, "driver": "GTiff"}
    height, width = layers[0].shape
    return np.stack(layers), {**profile, "height": height, "width": width, "compress": "deflate"}
