"""Readers of data sets in their official layouts. Each refuses what it does not find, and says where it can be had."""

from sample_runs.loaders.celeba import load_celeba
from sample_runs.loaders.chest_xray import load_chexpert, load_nih
from sample_runs.loaders.civil_comments import IDENTITIES, load_civil_comments
from sample_runs.loaders.medmnist import load_medmnist
from sample_runs.loaders.mnist import load_mnist
from sample_runs.loaders.sources import DataError, Pictures, Texts
from sample_runs.loaders.templates import load_templates

__all__ = [
    "IDENTITIES",
    "DataError",
    "Pictures",
    "Texts",
    "load_celeba",
    "load_chexpert",
    "load_civil_comments",
    "load_medmnist",
    "load_mnist",
    "load_nih",
    "load_templates",
]
