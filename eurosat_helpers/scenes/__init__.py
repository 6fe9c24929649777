"""A Sentinel-2 scene in, a land-cover map out: `classify`; `fetch` finds one in a STAC service."""

from eurosat_helpers.scenes.catalog import fetch
from eurosat_helpers.scenes.land_cover import LandCover
from eurosat_helpers.scenes.mapping import classify
from eurosat_helpers.scenes.web import web_map
