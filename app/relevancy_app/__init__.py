"""The app around `relevancy`: what a browser shows and sends. No analysis of its own."""
