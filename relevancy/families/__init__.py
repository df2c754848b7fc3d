"""Image token <-> place in the original picture, family by family."""
