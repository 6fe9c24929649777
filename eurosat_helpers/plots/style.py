"""Colors and sizes that all figures share."""

# Okabe and Ito, "Color Universal Design" (2008): distinct for color-blind readers too.
BLUE, GREEN, VERMILLION, PURPLE, GRAY = "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#666666"
WIDTH = 10  # inches: a notebook cell
STYLE = {"dpi": 100, "layout": "constrained"}
PLAIN = {"parse_math": False}  # of texts: users' names may hold `$`, which begins a formula
