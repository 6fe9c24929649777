"""Open a scene of any product, and find out what its numbers mean."""

from __future__ import annotations

import os
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import rasterio

from eurosat_helpers.scenes import names
from eurosat_helpers.scenes.names import BANDS
from eurosat_helpers.scenes.scene import GDAL, REMOTE, WHITE, Scene

# Reflectance of 255 in the true-color images of a product, level 1C and 2A.
TRUE_COLOR = {"L1C": 0.3558, "L2A": 0.2}

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def open_scene(
    source: Source,
    *,
    bands: Sequence[int] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    level: str | None = None,
) -> Scene:
    """Open a scene and find out what its numbers mean.

    Args:
        source: A file or an address that GDAL reads (GeoTIFF, JP2), a `.SAFE` folder or the
            `MTD_*.xml` in it, or a list of the files of B04, B03 and B02.
        bands: Numbers of red, green and blue in the file, from 1; `None` takes those described as
            B04, B03, B02 or as colors; of three bands without a description, their colors or order.
        scale: Reflectance of one digital number, 0.0001 in Sentinel-2 products; `None` takes it
            from the product's XML, the tags of the file, the level of a true-color image (TCI in
            its name), or the kind of the numbers.
        offset: Reflectance of digital number 0, -0.1 in products since processing baseline 04.00
            (January 2022); `None` takes it from where the scale comes from.
        level: "L1C" (top of atmosphere) or "L2A" (surface reflectance); `None` takes it from the
            name of the product's XML, the tags `level` or `PROCESSING_LEVEL`, or the name of the
            file, where one of them says it.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If it is no such scene, or the arguments do not fit it.
    """
    if level not in ("L1C", "L2A", None):
        raise ValueError(f'`level` must be "L1C", "L2A" or None. Received: {level!r}.')
    said_by, numbers, product = "tags", None, None
    if not isinstance(source, (list, tuple)):
        folder = Path(source).expanduser()
        if re.fullmatch(r"MTD_.*\.xml", folder.name) and (folder.parent / "GRANULE").is_dir():
            folder = folder.parent
        if folder.is_dir():
            source, numbers, product = _safe(folder)
            said_by = "product"
        else:
            source = [source]
    files = [_open(path) for path in source]
    if len(files) not in (1, 3):
        raise ValueError(f"`source` must be one or three files. Received: {len(files)}.")
    if len(files) == 1:
        chosen, files = _bands(files[0], bands), files * 3
    else:
        chosen = (1, 1, 1)
        for path, file, band in zip(source, files, BANDS, strict=True):
            said = names.band_of_file(Path(path).stem, file.descriptions[0])
            if said not in (None, band):
                received = f"Received: {path} for {band}; it says {said}."
                raise ValueError(f"`source` must be B04, B03, B02. {received}")
        grids = {(file.shape, file.transform, file.crs, file.count) for file in files}
        kinds = [kind.name for kind in files[0].colorinterp if kind.name != "alpha"]
        if len(grids) > 1 or len(kinds) != 1 or bands is not None:
            received = "; ".join(
                f"{file.name}, {file.height} x {file.width} pixels from "
                f"{file.transform * (0, 0)} in {file.crs}, bands: {file.count}"
                for file in files
            )
            raise ValueError(
                "`source` must be three files of one grid and of one band each, in the order B04, "
                f"B03, B02, without `bands`. Received: {received}; bands={bands}."
            )
    tags, path = files[0].tags(), Path(files[0].name)
    level = level or product or names.level(tags.get("level", tags.get("PROCESSING_LEVEL", "")))
    level = level or names.level_of_file(path)
    if numbers is None:
        pairs = list(zip(files, chosen, strict=True))
        scales = tuple(file.scales[band - 1] for file, band in pairs)
        numbers = scales, tuple(file.offsets[band - 1] for file, band in pairs)
        if scale is None and numbers == ((1.0,) * 3, (0.0,) * 3):
            said_by, *numbers = _assumed(files[0], level)
    scales, offsets = numbers
    if scale is not None:
        said_by, scales = "arguments", (scale,) * 3
    if offset is not None:
        offsets = (offset,) * 3
    numbers = [*scales, *offsets]
    if not all(isinstance(n, Real) and np.isfinite(n) for n in numbers) or min(scales) <= 0:
        raise ValueError(
            "`scale` must be a positive number and `offset` a finite one. Received: "
            f"{scales[0]!r} and {offsets[0]!r}."
        )
    scales, offsets = (tuple(map(float, values)) for values in (scales, offsets))
    # Products keep 0 for "no data", and few of their copies say so.
    silent = all(file.nodatavals[0] is None for file in files)
    return Scene(tuple(files), chosen, scales, offsets, silent, said_by, level)


def _open(path: str | os.PathLike[str]) -> rasterio.DatasetReader:
    if "://" not in str(path) and not str(path).startswith("/vsi"):  # which has two slashes
        path = Path(path).expanduser()
    try:
        options = REMOTE if "://" in str(path) else GDAL
        with warnings.catch_warnings(), rasterio.Env(**options):
            # Whether there is a georeference is for the map to say.
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            file = rasterio.open(path)
        if not file.count:  # a product packed as it was downloaded, or an XML
            raise rasterio.errors.RasterioIOError("It holds no bands, only other files.")
        return file
    except rasterio.errors.RasterioIOError as error:
        if "://" not in str(path) and not Path(path).exists():
            raise FileNotFoundError(f"`source` must exist. Received: {path}.") from error
        packed = Path(path).suffix.lower() in (".zip", ".xml")
        advice = "Unzip a product, and pass its .SAFE folder. " if packed else ""
        raise ValueError(
            f"`source` must be a raster that GDAL reads. Received: {path}. {advice}{error}"
        ) from error


def _bands(file: rasterio.DatasetReader, bands: Sequence[int] | None) -> tuple[int, ...]:
    if bands is None:
        bands = names.bands(file.descriptions, [color.name for color in file.colorinterp])
    bands = np.ravel(bands).tolist()
    if len(bands) != 3 or not set(bands) <= set(file.indexes):
        raise ValueError(
            "`bands` must be the numbers of red (B04), green (B03) and blue (B02), each from 1 to "
            f"{file.count}. Received: {bands or 'none'} for {file.name}, a file of "
            f"{file.count} bands, described as {list(file.descriptions)}."
        )
    return tuple(map(int, bands))


def _assumed(
    file: rasterio.DatasetReader, level: str | None
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Take scale and offset from the name, else from the kind of the numbers."""
    kind = np.dtype(file.dtypes[0])
    # As a word of its own: eastcity.tif is none.
    if kind == np.uint8 and re.search(r"(?<![A-Z])TCI(?![A-Z])", Path(file.name).stem.upper()):
        if level is None:
            raise ValueError(
                f"`level` must be given for a true-color image whose name does not say it, since "
                f"its white depends on it: {TRUE_COLOR}. Received: {file.name}."
            )
        return "name", (TRUE_COLOR[level] / 255,) * 3, (0.0,) * 3
    if kind == np.uint8:  # EuroSAT's own gray levels
        return "assumed", (WHITE / 254,) * 3, (-WHITE / 254,) * 3
    return "assumed", (1.0 if kind.kind == "f" else 1e-4,) * 3, (0.0,) * 3


def _safe(
    folder: Path,
) -> tuple[list[Path], tuple[tuple[float, ...], tuple[float, ...]], str | None]:
    """Find the three bands of 10 m; the XML says scale and offset, its name the level."""
    images = folder.glob("GRANULE/*/IMG_DATA/**/[!.]*")  # macOS leaves hidden ones beside them
    images = [path for path in images if path.is_file()]
    found = [
        [path for path in images if re.search(rf"_{band}(_10m)?$", path.stem)] for band in BANDS
    ]
    about = sorted(folder.glob("MTD_MSIL*.xml"))
    if [len(paths) for paths in found] != [1, 1, 1] or len(about) != 1:
        raise ValueError(
            f"`source` must be a .SAFE folder with one MTD_MSIL1C.xml or MTD_MSIL2A.xml and one "
            f"file each of {', '.join(BANDS)} at 10 m. Received: {folder} with {len(about)} and "
            f"{[len(paths) for paths in found]} of them."
        )
    values: dict[str, float] = {}
    try:
        for element in ET.parse(about[0]).iter():
            # Band 1 is B02, 2 is B03, 3 is B04. Before 2018 the tags of level 2A began with L2A.
            name = element.tag.rpartition("}")[2] + element.get("band_id", "")
            number = r"(?:L2A_)?(?:BOA_|RADIO_)?(QUANTIFICATION_VALUE|ADD_OFFSET[123])"
            if found_number := re.fullmatch(number, name):
                values[found_number[1]] = float(element.text)
        scale = 1 / values["QUANTIFICATION_VALUE"]
    except (ET.ParseError, ValueError, KeyError, ZeroDivisionError) as error:
        raise ValueError(
            f"`{about[0]}` must hold a positive QUANTIFICATION_VALUE: copy the product again. "
            f"Received: {error!r}."
        ) from error
    offsets = tuple(scale * values.get(f"ADD_OFFSET{number}", 0.0) for number in (3, 2, 1))
    return [paths[0] for paths in found], ((scale,) * 3, offsets), names.level(about[0].stem)
