"""A Sentinel-2 scene as gray levels of EuroSAT's tiles.

EuroSAT's makers scaled the digital numbers 0 to 2750 of L1C products to 1 to 255 (gdal_translate
-scale 0 2750 1 255), so gray level 1 stands for a reflectance of 0 and 255 for 0.275. Level 1C is
what the satellite sees, with the haze of the air; level 2A is the surface alone.
"""

from __future__ import annotations

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
LEAST = -0.5  # reflectance; that of ground at level 2A may be a little below 0
DEGREE = 111_320.0  # metres of a degree of latitude
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
        nodata: Digital number that in all three bands stands for no data; `None` where the files
            themselves say it. Where they do not, numbers far below 0 do too.
        said_by: What scale and offset come from: "arguments", "product", "tags", "name" or
            "assumed".
        level: "L1C", "L2A", or `None` where nothing says it.
    """

    files: tuple[rasterio.DatasetReader, ...]
    bands: tuple[int, int, int]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    nodata: float | None
    said_by: str
    level: str | None = None

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
        for file, band, scale, offset in zip(
            self.files, self.bands, self.scale, self.offset, strict=True
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
            if self.nodata is not None and numbers.dtype.kind in "fi":
                # The file is silent on gaps such as -9999 too.
                valid &= numbers > (LEAST - offset) / scale
            if self.nodata is not None:
                has = numbers != self.nodata if has is None else has & (numbers != self.nodata)
            if has is not None:
                present = has if present is None else present | has
            layers.append(_gray(numbers, scale, offset))
        if present is not None:
            valid &= present
        gray = np.stack(layers, axis=-1)
        if not valid.all():
            gray[~valid] = 0
        return gray, valid

    def paths(self) -> list[Path]:
        """List all files that belong to the scene, whatever names or addresses it was opened by."""
        return [Path(path).resolve() for file in self.files for path in file.files]

    def identity(self) -> list[object]:
        """Describe what a result depends on: files, with their size and time, and numbers."""
        stats = [path.stat() for path in self.paths() if path.exists()]
        about = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        return [[file.name for file in self.files], about, self.bands, self.scale, self.offset]

    def as_level_1c(self, overview: np.ndarray) -> Scene:
        """Add a clear atmosphere to a scene of level 2A (`pixels`): the training tiles have it.

        Where the level is not known, the darkest blue decides: pixels so dark are seen without air.

        Args:
            overview: Gray levels of pixels with data, `(N, 3)`.

        Returns:
            The scene with its level and, at level 2A, other scales and offsets.
        """
        level = self.level or ("L2A" if self._looks_hazeless(overview) else "L1C")
        if level == "L1C":
            return replace(self, level=level)
        scale, offset, air = map(np.array, (self.scale, self.offset, pixels.LET_THROUGH))
        haze = np.array(pixels.HAZE) * WHITE / 254  # in reflectance
        numbers = {"scale": scale * air, "offset": offset * air + haze}
        return replace(self, level=level, **{key: tuple(x.tolist()) for key, x in numbers.items()})

    def _looks_hazeless(self, overview: np.ndarray) -> bool:
        return len(overview) > 0 and np.percentile(overview[:, 2], 0.5) < pixels.HAZELESS

    def pixel_metres(self) -> tuple[float, float] | None:
        """Measure the pixels on the ground, height and width; `None` without a georeference."""
        file = self.files[0]
        if file.crs is None or file.transform.is_identity:
            return None
        row, column = file.height // 2, file.width // 2
        places = [file.xy(row + down, column + right) for down, right in ((0, 0), (1, 0), (0, 1))]
        try:
            east, north = rasterio.warp.transform(file.crs, "EPSG:4326", *zip(*places, strict=True))
            shrink = math.cos(math.radians(north[0]))  # of degrees of longitude
        except Exception:  # GDAL's own, or infinity: a grid or a place that lies nowhere on Earth
            return None
        metres = [
            # Longitude jumps from 180 to -180.
            DEGREE * math.hypot(y - north[0], shrink * math.remainder(x - east[0], 360))
            for x, y in zip(east[1:], north[1:], strict=True)
        ]
        if file.crs.is_projected:
            unit = file.crs.linear_units_factor[1]
            own = [unit * math.dist(places[0], place) for place in places[1:]]
            # Grids for surveys (UTM) stretch by less, and areas are stated in their own metres.
            metres = own if np.allclose(own, metres, rtol=0.01) else metres
        return tuple(metres)


def _gray(numbers: np.ndarray, scale: float, offset: float) -> np.ndarray:
    """Turn digital numbers into gray levels, uint8 from 1 to 255."""
    if numbers.dtype in (np.uint8, np.uint16):  # a table takes a fraction of the time
        table = np.arange(np.iinfo(numbers.dtype).max + 1, dtype="float32")
        return _gray(table, scale, offset)[numbers]
    gray = 1 + (numbers.astype("float32") * scale + offset) * (254 / WHITE)
    return np.clip(np.rint(np.nan_to_num(gray)), 1, 255).astype(np.uint8)
