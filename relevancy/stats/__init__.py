"""Means and differences with intervals; the unit that is drawn is the picture."""
