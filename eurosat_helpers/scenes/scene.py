"""A Sentinel-2 scene as gray levels of EuroSAT's tiles.

EuroSAT's makers scaled the digital numbers 0 to 2750 of L1C products to 1 to 255 (gdal_translate
-scale 0 2750 1 255), so gray level 1 stands for a reflectance of 0 and 255 for 0.275. Level 1C is
what the satellite sees, with the haze of the air; level 2A is the surface alone.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import MaskFlags
from rasterio.windows import Window

from eurosat_helpers import pixels

WHITE = 0.275  # reflectance of gray level 255
LEAST = -0.5  # reflectance; below it is a gap, such as -9999, in whatever band it is
NOTHING = -0.09  # below it in all bands is a gap too: 0 from which an offset was subtracted
GAP = 0.0005  # reflectance, at most 5 numbers: what lossy compression makes of a gap of 0
AXIS, FLATTENING = 6_378_137.0, 1 / 298.257223563  # of the Earth (WGS 84), metres
# Bytes of blocks that GDAL keeps, by default a share of the memory; seconds that a server has.
GDAL = {"GDAL_CACHEMAX": 200_000_000, "GDAL_HTTP_CONNECTTIMEOUT": 60, "GDAL_HTTP_TIMEOUT": 600}
# Else GDAL asks a server for a list of the folder, and for files beside the one that it reads, and
# remembers for good that a request failed.
REMOTE = {**GDAL, "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
REMOTE |= {"CPL_VSIL_CURL_NON_CACHED": "/vsicurl/"}


@dataclass(frozen=True)
class Scene:
    """An open scene. Made by `opening.open_scene`.

    Attributes:
        files: The files that hold red, green and blue, once or three times the same.
        bands: The number of the band in each, counted from 1.
        scale: Reflectance is `digital number * scale + offset`, one scale per band.
        offset: One offset per band.
        silent: Whether the files do not say which number stands for no data. Then 0 in all three
            bands does (within `GAP`), or a reflectance that no ground has.
        said_by: What scale and offset come from: "arguments", "product", "tags", "name" or
            "assumed".
        level: "L1C", "L2A", or `None` where nothing says it.
        atmosphere: Whether `read` adds a clear atmosphere.
    """

    files: tuple[rasterio.DatasetReader, ...]
    bands: tuple[int, int, int]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    silent: bool
    said_by: str
    level: str | None = None
    atmosphere: bool = False

    def read(
        self, window: Window | None = None, shape: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read a window, or all of the scene, at full resolution or as an overview of `shape`.

        Returns:
            Gray levels uint8 `(height, width, 3)`, 1 to 255 and 0 where there is no data; and which
            pixels have data, bool `(height, width)`: all three numbers if they are floating-point,
            else one of them, since 0 may be dark ground too (but none is far below 0).

        Raises:
            ValueError: If a file is damaged.
            ConnectionError: If a server does not answer.
        """
        layers, valid, present = [], None, None
        air = pixels.LET_THROUGH, pixels.HAZE
        for file, band, scale, offset, through, haze in zip(
            self.files, self.bands, self.scale, self.offset, *air, strict=True
        ):
            masked = MaskFlags.all_valid not in file.mask_flag_enums[band - 1]
            try:
                with rasterio.Env(**GDAL):
                    layer = file.read(band, window=window, out_shape=shape, masked=masked)
            except rasterio.errors.RasterioIOError as error:
                if "://" in file.name:
                    message = f"`{file.name}` could not be read over the network: repeat the call."
                    raise ConnectionError(f"{message} {error}") from error
                message = f"`{file.name}` is damaged or incomplete: copy it again."
                raise ValueError(f"{message} {error}") from error
            numbers = np.ma.getdata(layer)
            # Each pass over all pixels takes time from the network, which is busy on all cores.
            valid = np.ones(numbers.shape, bool) if valid is None else valid
            has = ~np.ma.getmaskarray(layer) if masked else None
            if numbers.dtype.kind == "f":
                valid &= np.isfinite(numbers) if has is None else np.isfinite(numbers) & has
                has = None
            if self.silent:
                near = 0 if numbers.dtype.kind == "f" else min(5, math.floor(GAP / scale))
                seen = numbers > near
                if numbers.dtype.kind in "fi":
                    valid &= numbers > (LEAST - offset) / scale
                    seen |= (numbers < -near) & (numbers > (NOTHING - offset) / scale)
                has = seen if has is None else has & seen
            if has is not None:
                present = has if present is None else present | has
            if self.atmosphere:
                scale, offset = scale * through, offset * through + haze * WHITE / 254
            layers.append(_gray(numbers, scale, offset))
        if present is not None:
            valid &= present
        gray = np.stack(layers, axis=-1)
        if not valid.all():
            gray[~valid] = 0
        return gray, valid

    def paths(self) -> list[Path]:
        """List all files that belong to the scene, whatever names or addresses it was opened by."""
        found = [path for file in self.files for path in file.files]
        for path in found:  # which grows: of a VRT in a VRT, GDAL does not list the files
            if path.lower().endswith(".vrt"):
                missing = contextlib.suppress(rasterio.errors.RasterioIOError)  # `read` says so
                with missing, rasterio.open(path) as inner:
                    found += [other for other in inner.files if other not in found]
        return [Path(path).resolve() for path in found]

    def identity(self) -> list[object]:
        """Describe what a result depends on: files, with their size and time, and numbers."""
        # Those that programs write beside a scene that they show have no pixels of it.
        shown = (".aux.xml", ".ovr")
        paths = [path for path in self.paths() if not path.name.endswith(shown)]
        stats = [path.stat() for path in paths if path.exists()]
        about = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        numbers = self.bands, self.scale, self.offset, self.silent, self.atmosphere
        return [[file.name for file in self.files], about, *numbers]

    def as_level_1c(self, overview: np.ndarray) -> Scene:
        """Add a clear atmosphere to a scene of level 2A (`pixels`): the training tiles have it.

        Where the level is not known, the darkest blue decides: pixels so dark are seen without air.

        Args:
            overview: Gray levels of pixels with data, `(N, 3)`.

        Returns:
            The scene with its level and, at level 2A, an atmosphere.
        """
        level = self.level or ("L2A" if self._looks_hazeless(overview) else "L1C")
        return replace(self, level=level, atmosphere=level == "L2A")

    def _looks_hazeless(self, overview: np.ndarray) -> bool:
        return len(overview) > 0 and np.percentile(overview[:, 2], 0.5) < pixels.HAZELESS

    def pixel_metres(self, rows: np.ndarray | None = None) -> np.ndarray | None:
        """Measure the pixels on the ground.

        Args:
            rows: N rows of pixels; `None` is the one in the middle of the scene.

        Returns:
            Height and width of the pixel in the middle of each row in metres, float64 `(2, N)`, or
            `(2,)` without `rows`; `None` without a georeference.
        """
        file = self.files[0]
        if file.crs is None or file.transform.is_identity:
            return None
        row = 0.5 + (np.array([file.height // 2]) if rows is None else rows)
        column = 0.5 + np.full(len(row), file.width // 2)
        steps = (column, row), (column, row + 1), (column + 1, row)
        x, y = np.stack([file.transform * place for place in steps], axis=1)
        try:
            places = rasterio.warp.transform(file.crs, "EPSG:4326", x.ravel(), y.ravel())
        except Exception:  # GDAL's own: a grid or a place that lies nowhere on Earth
            return None
        east, north = np.reshape(places, (2, *x.shape))
        if not np.isfinite(east + north).all():
            return None
        east = (east[1:] - east[0] + 180) % 360 - 180  # longitude jumps from 180 to -180
        latitude, squared = np.radians(north[0]), FLATTENING * (2 - FLATTENING)
        bend = 1 - squared * np.sin(latitude) ** 2
        along = AXIS * (1 - squared) / bend**1.5 * np.radians(north[1:] - north[0])
        metres = np.hypot(along, AXIS / bend**0.5 * np.cos(latitude) * np.radians(east))
        if file.crs.is_projected:
            own = np.hypot(x[1:] - x[0], y[1:] - y[0]) * file.crs.linear_units_factor[1]
            # Grids for surveys (UTM) stretch by less, and areas are stated in their own metres.
            metres = own if np.allclose(own, metres, rtol=0.01) else metres
        return metres[:, 0] if rows is None else metres


def _gray(numbers: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """Turn digital numbers into gray levels, uint8 from 1 to 255."""
    if numbers.dtype in (np.uint8, np.uint16):  # a table takes a fraction of the time
        table = np.arange(np.iinfo(numbers.dtype).max + 1, dtype="float32")
        return _gray(table, scale, offset)[numbers]
    gray = 1 + (numbers.astype("float32") * scale + offset) * (254 / WHITE)
    return np.clip(np.rint(np.nan_to_num(gray)), 1, 255).astype(np.uint8)
