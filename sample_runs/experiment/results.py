"""What is kept of an experiment: figures of every case and seed, small enough to be stored with the project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aa_core.confidence.calibration import Figures, Scores
from aa_core.errors import RequestError
from aa_core.files import write_atomic
from aa_core.runs.header import Model
from sample_runs.experiment.plan import ROOT, experiments

RESULTS = "results.json"
DIGITS = 4


class Means(Model):
    """Mean effects of the stages on one performance, positive = helped; in the order of the stages."""

    name: str
    unit: str
    engine: tuple[float, ...]
    """By the engine's default: boundary, exact, linear."""
    calibrated: tuple[float, ...]
    """By the estimator that calibration chose for this run."""
    truth: tuple[float, ...]
    """By really training without the stage."""
    share: tuple[float, ...]
    """What the performance gained meanwhile."""


class Found(Model):
    """Whether what was to be found was found."""

    says: str
    engine: bool
    calibrated: bool
    truth: bool
    """Whether it is so at all, by really training without the stages."""


class Together(Model):
    """Several stages skipped in one retraining, chosen by their estimated effects on one performance."""

    chosen: str
    performance: str
    stages: tuple[str, ...]
    recorded: float
    without: float
    """The performance as recorded, and really retrained without them."""
    estimate: float
    truth: float


class LeftOut(Model):
    """One training example, left out in all its appearances."""

    id: str
    performance: str
    estimate: float
    truth: float


class Trained(Model):
    """One case with one seed: a run, and what was measured of it."""

    case: str
    seed: int
    run: str
    steps: int
    parameters: int
    examples: int
    stages: tuple[str, ...]
    accuracy: float
    """Share of the evaluation examples that the final model gets right."""
    verdict: str
    """What the engine says of its default before anything is retrained: size, rank, sign or nothing."""
    earned: str
    """What its default turned out to deserve."""
    default: str
    """The estimator that calibration chose."""
    below_noise: int
    estimators: tuple[Figures, ...]
    """Against retraining without each stage, on the log-likelihood of every evaluation example; the path share last."""
    held: Scores | None = None
    """Models with buffers (running statistics): the engine's default against retraining, both with the final buffers of
    the recorded run."""
    single_steps: Scores
    single_steps_verdict: str
    costs: dict[str, float]
    """CPU time as a ratio to one plain replay of the training."""
    means: tuple[Means, ...]
    found: tuple[Found, ...]
    together: tuple[Together, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    points: tuple[tuple[float, float], ...]
    """(estimate by the chosen estimator, truth) of some pairs of stage and example."""

    def figures(self, method: str, curvature: str = "", readout: str = "") -> Figures:
        """The figures of one estimator; the chosen one under "calibrated"."""
        if method == "calibrated":
            return next(e for e in self.estimators if e.name == self.default)
        wanted = (method, curvature, readout)
        return next(e for e in self.estimators if (e.method, e.curvature, e.readout) == wanted)


class Results(Model):
    """All that was measured of an experiment."""

    experiment: str
    date: str
    machine: str
    trained: tuple[Trained, ...]

    def of_case(self, name: str) -> tuple[Trained, ...]:
        """The runs of one case, by seed."""
        return tuple(sorted((t for t in self.trained if t.case == name), key=lambda t: t.seed))


def results_path(name: str, root: Path = ROOT) -> Path:
    """Where the stored results of an experiment lie."""
    return root / name / "results" / RESULTS


def read_results(path: Path) -> Results:
    """RequestError unless these are results of this version."""
    try:
        return Results.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file; run `aa experiment` first") from None
    except ValidationError as error:
        raise RequestError(f"{path}: {error}; run `aa experiment` again") from None


def write_results(found: Results, path: Path) -> None:
    """Figures rounded to DIGITS significant digits, so that the file stays small; one run a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _rounded(found.model_dump(mode="json"))
    lines = ",\n".join(json.dumps(t, allow_nan=False, separators=(",", ":")) for t in content.pop("trained"))
    head = json.dumps(content, allow_nan=False, ensure_ascii=False)[:-1]
    write_atomic(path, f'{head}, "trained": [\n{lines}\n]}}\n'.encode())


def stored_results(root: Path = ROOT) -> dict[str, Path]:
    """{run digest: results of the experiment that it is part of}, of all that are stored."""
    paths = [results_path(name, root) for name in experiments(root)]
    return {t.run: path for path in paths if path.is_file() for t in read_results(path).trained}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
