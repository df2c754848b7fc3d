"""The engine: attention whose backward advances the relevance row, and the tape that reads it."""
