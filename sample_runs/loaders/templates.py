"""Sentences made from templates with identity terms: toxicity is independent of the term, by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sample_runs.loaders.sources import DataError, Texts, data_set, find, read_table

SOURCE = (
    "The sentence templates (Dixon et al. 2018, Apache 2.0) are en_sentence_templates.csv[.gz], to be had at "
    "https://github.com/conversationai/unintended-ml-bias-analysis"
)


def load_templates(data: Path) -> Texts:
    """All sentences; table: toxic (0 or 1), template."""
    folder = data_set(data, ("toxicity_templates", "sentence_templates"), SOURCE)
    path = find(folder, ("en_sentence_templates.csv.gz", "en_sentence_templates.csv"), SOURCE)
    table = read_table(path, ("template", "toxicity", "phrase"), SOURCE)
    if not table["toxicity"].isin(["toxic", "nontoxic"]).all():
        raise DataError(f"{path}: toxicity must be toxic or nontoxic. {SOURCE}")
    toxic = (table["toxicity"] == "toxic").astype(np.int64)
    facts = table[["template"]].assign(toxic=toxic)
    return Texts(table["phrase"].astype(str).tolist(), facts)
