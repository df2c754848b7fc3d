"""The embedded picture world: procedural scenes with known object masks, and the pair of small models trained on them."""
