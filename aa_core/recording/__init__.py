"""Beside the user's own loop: what a training did, while it does it."""
