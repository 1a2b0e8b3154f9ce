"""The version of this package, recorded with every result."""

__version__ = "0.1.0"
