"""Improvements beyond the pair of notebooks; `examples/improvements.ipynb` tells their story."""
