"""Doubt a scene: what its numbers, its grid or its colors say against it."""

from __future__ import annotations

import numpy as np

from eurosat_helpers.scenes.scene import WHITE, Scene

PIXEL = 10.0  # metres on the ground of EuroSAT's pixels
DARK = 80  # gray level; in red, the darkest pixels of a scene are far below it
BRIGHT = 30  # gray level; in one of the bands, the brightest pixels of land are far above it


def find(scene: Scene, overview: np.ndarray) -> list[str]:
    """Say what looks wrong; `overview` holds gray levels of pixels with data, `(N, 3)`."""
    found, metres, name = [], scene.pixel_metres(), scene.files[0].name
    if scene.said_by == "assumed":
        found.append(
            f"Nothing says what the numbers in `{name}` mean: a scale of {scene.scale[0]:.4g} is "
            f"assumed, with an offset of {scene.offset[0]:.4g}. Pass `scale` and `offset` (a "
            "picture that was stretched for display has none that fit)."
        )
    if metres is None:
        found.append(f"`{name}` has no georeference: neither has the map, nor areas.")
    elif not all(8 < side < 12.5 for side in metres):
        found.append(
            f"The pixels of `{name}` are {metres[1]:.3g} x {metres[0]:.3g} m on the ground, "
            f"those of the training {PIXEL:.0f} m: resample the scene (`gdalwarp -tr 10 10`)."
        )
    if scene.level is None and scene.as_level_1c(overview).level == "L2A":
        found.append(
            f"Nothing says the processing level of `{name}`. Its darkest blue is that of level "
            '2A, so a clear atmosphere is added: pass `level`, "L1C" or "L2A", or correct '
            "`scale` and `offset` if they are wrong."
        )
    if len(overview) == 0:
        wrong = f" Is the offset of {scene.offset[0]:.4g} right?" * (scene.offset[0] < -1)
        found.append(f"No pixel of `{name}` has data, so no cell of the map has any.{wrong}")
    else:
        dark = np.percentile(overview[:, 0], 0.5)
        white = (overview.min(axis=1) == 255).mean()
        # A scale of 1 is assumed of floating-point numbers alone.
        if scene.said_by == "assumed" and scene.scale[0] == 1 and white > 0.5:
            found.append(
                f"{white:.0%} of the pixels of `{name}` are white, since its numbers are taken for "
                "reflectance from 0 to 1. They look like 0 to 10000: pass `scale=1e-4`."
            )
        elif white > 0.5:
            found.append(
                f"{white:.0%} of the pixels of `{name}` are white, a reflectance of {WHITE} or "
                f"more. Unless it is snow, cloud or sand, the scale of {scene.scale[0]:.4g} is too "
                f"large (that of Sentinel-2 products is 0.0001), or the offset of "
                f"{scene.offset[0]:.4g} (theirs is -0.1 since January 2022)."
            )
        elif dark > DARK:
            advice = (
                "Is an offset of 1000 left in, as products have it since January 2022? Then pass "
                "`offset=-0.1`."
                if scene.offset[0] > -0.05
                else f"Unless it is bright everywhere, the scale of {scene.scale[0]:.4g} or the "
                f"offset of {scene.offset[0]:.4g} does not fit."
            )
            darkest = f"Even the darkest red of `{name}` is {dark / 255 * WHITE:.2f} in reflectance"
            found.append(f"{darkest}. {advice}")
        blue = np.percentile(overview[:, 2], 0.5)
        if scene.level == "L1C" and blue + 10 < dark <= DARK:
            found.append(
                f"The darkest blue of `{name}` is darker than its darkest red, unlike at level 1C, "
                "whose haze is blue: are red and blue swapped, or is it of level 2A?"
            )
        top = 1 + (255 * scene.scale[0] + scene.offset[0]) * 254 / WHITE
        cut = (overview >= round(top)).any(axis=1).mean() if top < 255 else 0
        if scene.said_by == "name" and cut > 0.02:
            found.append(
                f"{cut:.0%} of the pixels of `{name}` are saturated, as true-color images of level "
                "2A are above a reflectance of 0.2: use B04, B03 and B02."
            )
        bright = np.percentile(overview.max(axis=1), 99.5)
        nothing = (overview.max(axis=1) <= 1).mean() > 0.2  # reflects 0 or less
        if bright < BRIGHT and not (nothing and scene.offset[0] < 0):
            found.append(
                f"Even the brightest pixels of `{name}` are {(bright - 1) / 254 * WHITE:.3f} in "
                f"reflectance. Unless it is open water, a scale of {scene.scale[0]:.4g} is too "
                "small: that of Sentinel-2 products is 0.0001, of some others 0.001."
            )
        elif nothing:
            found.append(
                f"Many pixels of `{name}` reflect nothing: are the scale of "
                f"{scene.scale[0]:.4g} and the offset of {scene.offset[0]:.4g} right for it?"
            )
    return found
