"""Where tiles come from: find, list, read, split; demo tiles where there is no data."""

from eurosat_helpers.data.loading import load
from eurosat_helpers.data.splitting import sample, select, split
from eurosat_helpers.data.tiles import CLASS_NAMES, IMAGE_SIZE, Tiles
