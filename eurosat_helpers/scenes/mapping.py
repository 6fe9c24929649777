"""From a Sentinel-2 scene to a land-cover map."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from affine import Affine

from eurosat_helpers.classifier import Classifier
from eurosat_helpers.scenes import doubts, land_cover, opening, sweeping
from eurosat_helpers.scenes.land_cover import NO_DATA, LandCover
from eurosat_helpers.scenes.sweeping import SIDE


def classify(
    source: opening.Source,
    classifier: Classifier,
    output: str | os.PathLike[str],
    *,
    stride: int = 32,
    bands: Sequence[int] | None = None,
    scale: float | None = None,
    offset: float | None = None,
    level: str | None = None,
) -> LandCover:
    """Classify a scene in windows of 64 x 64 pixels and write the map as a GeoTIFF.

    A map has one cell per `stride` x `stride` pixels. Its probabilities are the mean over all
    windows that cover it completely. The last windows of a row or column are aligned with the edge
    of the scene. A window counts by its share of pixels with data, in such a way that those with
    gaps have a say only where there are no others, and not at all below one half; so a cell, too,
    has no data if less than half of it has. A strip of the scene is in memory at a time. An
    interrupted call resumes when it is repeated.

    The training tiles are of level 1C, so a clear atmosphere is added to a scene of level 2A
    (`scene.Scene.as_level_1c`).

    The GeoTIFF is cloud-optimized and has three bands: the number of the class (255: no data), with
    colors and names in the `.aux.xml` beside it; the confidence in percent; the unfamiliarity in
    percent of its threshold, at most 254. Both files are written completely or not at all.

    Args:
        source: See `opening.open_scene`.
        classifier: What `artifact.load` returned.
        output: Path of the map, ending in `.tif`; a map that is there is replaced.
        stride: Pixels between windows, 1 to 64. The cost grows with 1 / stride², and so does the
            memory of the map, 110 bytes per cell with ten classes.
        bands: See `opening.open_scene`.
        scale: See `opening.open_scene`.
        offset: See `opening.open_scene`.
        level: See `opening.open_scene`; where nothing says it, the darkest blue decides, which
            takes scenes of level 2A that are bright everywhere (desert, snow) for level 1C.

    Returns:
        The map in memory.

    Raises:
        FileNotFoundError: If `source` is missing.
        ValueError: If `source` is no such scene, damaged, or changed by another process meanwhile,
            or an argument does not fit it.
        ConnectionError: If `source` is an address, and its server does not answer.
        OSError: If the map cannot be written.

    Warns:
        UserWarning: If what the numbers mean is not known or looks wrong, level 2A is guessed,
            pixels are not about 10 m on the ground, or there is no georeference.
    """
    output = Path(output).expanduser()
    if not isinstance(stride, (int, np.integer)) or not 1 <= stride <= SIDE:
        raise ValueError(f"`stride` must be an integer from 1 to {SIDE}. Received: {stride!r}.")
    stride = int(stride)
    if output.suffix.lower() not in (".tif", ".tiff"):
        raise ValueError(f"`output` must end in .tif. Received: {output}.")
    scene = opening.open_scene(source, bands=bands, scale=scale, offset=offset, level=level)
    first, before = scene.files[0], scene.identity()
    if output.resolve() in scene.paths():
        raise ValueError(f"`output` must be another file than `source`. Received: {output}.")
    if min(first.shape) < SIDE:
        raise ValueError(
            f"`source` must have at least {SIDE} x {SIDE} pixels, one window. Received: "
            f"{first.height} x {first.width}."
        )
    picture, valid = sweeping.overview(scene)
    for doubt in doubts.find(scene, picture[valid]):
        warnings.warn(doubt, stacklevel=2)

    state_file = output.with_name(f".{output.name}.unfinished")
    hazy = scene.as_level_1c(picture[valid])  # the picture shows the scene as it is
    answers = sweeping.sweep(hazy, classifier, stride, state_file)
    if scene.identity() != before:  # some strips may be of the old file, and some of the new one
        state_file.unlink(missing_ok=True)
        raise ValueError(f"`{first.name}` changed while it was read: repeat the call.")
    probabilities, unfamiliarity = answers[..., :-1], answers[..., -1]
    known = ~np.isnan(unfamiliarity)
    cells = [np.diff([*range(0, side, stride), side]) for side in first.shape]
    # One measure per row of cells: in degrees, pixels are narrower towards the poles.
    metres = scene.pixel_metres(np.arange(0, first.height, stride) + cells[0] // 2)
    located = metres is not None
    metres = metres if located else np.full((2, len(cells[0])), np.nan)
    result = LandCover(
        file=output,
        picture=picture,
        classes=np.where(known, probabilities.argmax(axis=-1), NO_DATA).astype(np.uint8),
        confidence=probabilities.max(axis=-1),
        unfamiliarity=unfamiliarity / classifier.metadata["unfamiliarity_threshold"]["threshold"],
        class_names=classifier.class_names,
        hectares=np.outer(metres.prod(axis=0) * cells[0] / 1e4, cells[1]),
        cell_metres=stride * float(metres[1, len(cells[0]) // 2]),
        size=tuple(side / stride for side in first.shape),
    )
    tags = {
        "model": f"{classifier.directory.name}, {classifier.metadata['date']}",
        "classes": ", ".join(f"{number} {name}" for number, name in enumerate(result.class_names)),
        "stride": stride,
        "reflectance": f"digital number * {list(scene.scale)} + {list(scene.offset)}",
        "scale_from": scene.said_by,
        "level": hazy.level,
        "level_from": "arguments" if level else "scene" if scene.level else "its darkest blue",
    }
    a, b, c, d, e, f = first.transform[:6]
    transform = Affine(a * stride, b * stride, c, d * stride, e * stride, f)
    land_cover.write(result, tags, first.crs if located else None, transform)
    state_file.unlink(missing_ok=True)
    return result
