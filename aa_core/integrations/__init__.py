"""Recorders for training loops that others wrote: each framework in one file, imported when it is used."""
