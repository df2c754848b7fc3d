"""Benchmarks of answers: official files, the words they are asked in, and the official scores."""
