"""Experiments: recorded, attributed, retrained without every stage, and written down, by `aa experiment NAME`."""
