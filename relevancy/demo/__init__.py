"""The embedded picture world: scenes with known object masks, and two small models trained on them."""
