"""Gradient-weighted relevancy maps for vision-language models."""
