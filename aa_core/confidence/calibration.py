"""What a comparison with really retrained models found, as a stored value: how well each estimator does on a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field, ValidationError

from aa_core.confidence.agreement import Agreement
from aa_core.errors import RunFormatError
from aa_core.files import unsealed, write_sealed
from aa_core.plain import plain
from aa_core.records import RunLike
from aa_core.runs.attached import FOLDER, MAX_BYTES, MAX_FILES, name_of
from aa_core.runs.header import Digest, Environment, Model, read_json
from aa_core.runs.verified import read_file
from aa_core.workspace import workspace

BESIDE_A_RUN = "calibration.json"
"""A shipped run brings its calibration in the folder above its own; one that was packed, in its own (`attached`)."""
BROUGHT = "calibrated by whoever made or passed on this run, not measured here"
PLAIN = ("boundary", "exact", "linear")
"""The estimator of stage effects as long as no calibration has chosen a better one."""
RULE = "the estimator with the smallest error over all pairs: mean of |estimate - truth| over mean of |truth|"


class Scores(Model):
    """`aa_core.confidence.agreement.Agreement` with None where a figure is not defined."""

    n: int
    pearson: float | None
    spearman: float | None
    sign: float | None
    slope: float | None
    relative_error: float | None

    @staticmethod
    def of(found: Agreement) -> Scores:
        return Scores(**plain(found._asdict()))


class Figures(Model):
    """One estimator against the truth. Effects below the noise floor are left out of every figure."""

    method: str
    curvature: str
    readout: str
    pairs: Scores
    """All stage x example pairs."""
    examples: Scores
    """The examples' means over the stages."""
    stages: Scores
    """The stages' means over the examples."""
    means: tuple[float | None, ...]
    """The estimated mean effect of each stage."""

    @property
    def name(self) -> str:
        return ", ".join(word for word in (self.method, self.curvature, self.readout) if word)


class Calibration(Model):
    """Estimates of every stage's effect against really training without it; effects are positive = helped."""

    run: str
    """Digest of the run."""
    problem: str
    performance: str
    evaluation: Digest
    """Digest of the performance: score, examples and weights."""
    values: int
    """How many values the performance has."""
    unit: str
    semantics: str
    stages: tuple[str, ...]
    truth: tuple[float, ...]
    """The true mean effect of each stage."""
    noise_of_mean: float
    noise_of_value: float
    """How far the mean effect, and the effect on a value, move with a start that is moved by 1e-6."""
    below_noise: int
    """Pairs whose true effect is within the noise; they are in no figure."""
    estimators: tuple[Figures, ...]
    path_share: Figures
    """gamma after minus gamma before each stage: the answer to another question, beside the estimators."""
    code: str
    environment: Environment | None = None
    """The machine that it was measured on, as it says; None in older ones."""
    here: bool = Field(default=True, exclude=True)
    """Whether it was measured here, which no file can claim: those of the workspace were."""

    @property
    def source(self) -> str:
        """Who retrained, in words that stand before what was found."""
        return "checked by retraining" if self.here else BROUGHT

    @property
    def where(self) -> str:
        """What it says of the machine that it was measured on."""
        at = self.environment
        return "an unnamed machine" if at is None else f"{at.platform}, {at.device}, torch {at.torch}"

    def noise_of(self, values: int) -> float:
        """How far the mean effect on so many values moves by itself: if these are but some, as far as on any one."""
        return self.noise_of_mean if values == self.values else self.noise_of_value

    @property
    def default(self) -> Figures | None:
        """The estimator to prefer on this run, by RULE; None where none gave a finite answer."""
        return self.best()

    def best(self, *methods: str) -> Figures | None:
        """The estimator to prefer by RULE among those of some methods (all by default).

        A wrong sign counts by the size of the effect: one of a stage whose mean is next to nothing decides nothing.
        """
        of = [e for e in self.estimators if not methods or e.method in methods]
        known = [(error, i) for i, e in enumerate(of) if (error := e.pairs.relative_error) is not None]
        return of[min(known)[1]] if known else None

    def find(self, method: str, curvature: str, readout: str) -> Figures | None:
        """The figures of one estimator."""
        wanted = (method, curvature, readout)
        return next((e for e in self.estimators if (e.method, e.curvature, e.readout) == wanted), None)

    def to_frame(self) -> pd.DataFrame:
        """One row an estimator, the path share last; columns pairs_*, examples_* and stages_* per figure."""
        return pd.DataFrame([_row(e) for e in (*self.estimators, self.path_share)])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, with the name of the default and the rule that chose it."""
        chosen = self.default
        return {**self.model_dump(mode="json"), "default": None if chosen is None else chosen.name, "rule": RULE}


def store_calibration(found: Calibration) -> Path:
    """Keep it in the workspace, in place of an earlier one of the same question."""
    path = _folder() / f"{found.run[:16]}-{found.evaluation[:16]}-{found.semantics}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, found.to_bytes())
    return path


def find_calibration(
    run: RunLike, evaluation: str | None, semantics: str = "freeze", problem: str | None = None
) -> Calibration | None:
    """The stored calibration of this run: measured here, else one that came with it; None if there is none.

    Args:
        evaluation: digest of the performance; None takes any of the run's, the one on most values first.
        problem: fingerprint of the problem; None takes any.
    """
    fitting = [
        c
        for c in _known(run)
        if c.semantics == semantics and evaluation in (None, c.evaluation) and problem in (None, c.problem)
    ]
    return max(fitting, key=lambda c: (c.here, c.values), default=None)


def calibrations_of(run: RunLike) -> list[bytes]:
    """All that are known of this very run, measured here or not, as they travel with it."""
    return [c.to_bytes() for c in _known(run)]


def prefer(
    run: RunLike,
    evaluation: str,
    semantics: str,
    chosen: tuple[str | None, str | None, str | None],
    *methods: str,
    problem: str | None = None,
) -> tuple[Any, Any, Any]:
    """(method, curvature, readout): those chosen, the rest plain; where none is, as a stored calibration of this very
    question prefers them among some methods (all by default).

    evaluation: `Performance.basis`. problem: as of `find_calibration`.
    """
    known = find_calibration(run, evaluation, semantics, problem) if chosen == (None, None, None) else None
    best = known.best(*methods) if known else None
    plain = (best.method, best.curvature, best.readout) if best else PLAIN
    method, curvature, readout = (own or other for own, other in zip(chosen, plain, strict=True))
    return method, curvature, readout


def _known(run: RunLike) -> list[Calibration]:
    """Those of the run: in the workspace, and brought. Their digests decide, not their names."""
    own = (unsealed(_read(p.parent, p.name)) or b"" for p in sorted(_folder().glob(f"{run.digest[:16]}-*.json")))
    found = [c for here, of in ((True, own), (False, _brought(run))) for data in of if (c := _parse(data, here))]
    return [c for c in found if c.run == run.digest]


def _brought(run: RunLike) -> Iterator[bytes]:
    path = getattr(run, "path", None)  # a run that was never written has none
    if path is None:
        return
    root = Path(path)
    names = [f"{FOLDER}/{p.name}" for p in sorted((root / FOLDER).glob("*.json"))[:MAX_FILES]]
    yield from (data for name in names if name_of(data := _read(root, name)) == name)
    yield _read(root.parent, BESIDE_A_RUN)


def _read(folder: Path, name: str) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES; none where there is no such file."""
    try:
        return read_file(folder, name, MAX_BYTES)
    except (OSError, RunFormatError):
        return b""


def _parse(data: bytes, here: bool) -> Calibration | None:
    """None for what is not a calibration of this version: it is measured again."""
    try:
        found = Calibration.model_validate(read_json(data, "calibration"), strict=False)
    except (RunFormatError, ValidationError):
        return None
    return found.model_copy(update={"here": here})


def _folder() -> Path:
    return workspace() / "calibrations"


def _row(e: Figures) -> dict[str, Any]:
    kinds = {"pairs": e.pairs, "examples": e.examples, "stages": e.stages}
    scores = {f"{kind}_{name}": value for kind, of in kinds.items() for name, value in of.model_dump().items()}
    return {"method": e.method, "curvature": e.curvature, "readout": e.readout, **scores}
