"""A Sentinel-2 scene in, a land-cover map out: `classify`."""

from eurosat_helpers.scenes.land_cover import LandCover
from eurosat_helpers.scenes.mapping import classify

__all__ = ["LandCover", "classify"]
