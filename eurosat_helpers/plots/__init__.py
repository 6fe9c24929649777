"""Draw the figures of the notebooks: arrays and tables in, Matplotlib figures out.

Each function returns a figure that pyplot has already closed, so that it shows once as the last
expression of a notebook cell. `title` is the title of the figure.
"""

from eurosat_helpers.plots.charts import reliability_diagram, robustness
from eurosat_helpers.plots.explanations import explanations
from eurosat_helpers.plots.grids import prediction_grid, tile_grid
from eurosat_helpers.plots.maps import CLASS_COLORS, scene_map
