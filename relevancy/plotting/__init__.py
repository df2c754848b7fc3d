"""Numbers -> pictures: overlays, figures, words on paper. Knows nothing about models."""
