"""What is known about how far an effect can be believed. Every result carries one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aa_core.confidence.agreement import Agreement
from aa_core.confidence.calibration import Calibration, Figures
from aa_core.confidence.verdict import (
    SEGMENTS,
    UNMEASURED,
    Estimator,
    Verdict,
    judge_calibrated,
    judge_growth,
    judge_readouts,
    lesser,
)
from aa_core.counterfactuals.counterfactual import SEMANTICS, WALL_CLOCK, Semantics
from aa_core.curvature import Curvature
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import beginning_of_last, load
from aa_core.running_statistics import Moving, moving
from aa_core.state import Params

FOLLOWED = (
    "running statistics follow the parameters, moved as they arrive, through the last forward passes: by their "
    "derivative, and made again for the displaced readout"
)
DIFFERENTIATED = "running statistics of batch normalisation are differentiated with the parameters"
EVALUATED = (
    "steps in evaluation mode are propagated as if they had seen the recorded running statistics whatever happened"
)
HELD = "Buffers ({}) are held here, though steps move them and predictions with them"
ATTENTION = "training attended by a fused kernel; derivatives take the plain one, which rounds otherwise"
ANEW = "what begins anew between stages (optimizer, new or reset parameters) does so whatever happened before"


class Remainder(NamedTuple):
    """The constants of the bound on a stage's effect, and the bound; see `aa_core.confidence.remainder.remainders`."""

    stage: str
    displacement: float
    """D_S: the lengths of all its steps, summed, in units of the parameters."""
    net: float
    """How far it moved the parameters in the end (each block on its own)."""
    lr_after: float
    """Effective learning rate of the steps after it, summed."""
    largest: float
    """Lambda: the largest |eigenvalue| of the curvature in the optimizer's metric, a unit of learning rate."""
    unstable: float
    """The same of the directions that really grow: downhill curvature, and what a step overshoots."""
    bend: float
    """rho: how fast the curvature changes along what the stage did."""
    slope: float
    """G: norm of the gradient of the mean performance."""
    curvature: float
    """Lambda_gamma: largest |eigenvalue| of its Hessian."""
    samples: int
    """Steps at which the constants were estimated."""

    @property
    def log10_bound(self) -> float:
        """log10 of the theorem's form: quadratic in D_S, exponential in Lambda x total learning rate."""
        return self._log10(self.displacement, self.largest)

    @property
    def log10_sharp(self) -> float:
        """The same with the net move, and the directions that grow alone: exact reasoning for gradient descent."""
        return self._log10(self.net, self.unstable)

    @property
    def words(self) -> str:
        """The bounds in a sentence."""
        return (
            f"{self.stage}: off by at most 10^{self.log10_bound:.1f} by the theorem's form (displacement "
            f"{self.displacement:.3g}, Lambda {self.largest:.3g}, learning rate after it {self.lr_after:.3g}), by 10^"
            f"{self.log10_sharp:.1f} if only what grows is counted; constants estimated at {self.samples} steps."
        )

    def _log10(self, size: float, rate: float) -> float:
        factor = 0.5 * size**2 * (self.slope * self.bend * self.lr_after + self.curvature)
        return math.log10(factor) + 2 * rate * self.lr_after / math.log(10) if factor > 0 else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """Constants and bounds; None for the logarithm of zero."""
        bounds = {"log10_bound": self.log10_bound, "log10_sharp": self.log10_sharp}
        return self._asdict() | {n: b if math.isfinite(b) else None for n, b in bounds.items()}


@dataclass(frozen=True)
class Reliability:
    """Figures measured while the effects were computed. The verdict is measured, too; only a retraining can confirm."""

    growth: float
    """How much a change of the parameters grew on its way (steps: largest norm over that at the end; stages: norm at
    the end over that of the changes themselves). Near or below 1: smooth."""
    effective_lr: float
    """Largest lr / (1 - momentum) (SGD, RMSprop), or lr (the others), over all steps and groups."""
    stiff_share: float
    """Share of coordinates whose second moment is exactly zero at the end (last optimizer, if an Adam), which react to
    a gradient without bound."""
    readout_spread: float | None
    """Stages: how far the three readouts lie apart, summed over stages, relative to their size. 0 = they agree."""
    signs_agree: float | None
    """Stages: share of stages whose mean effect has the same sign in all three readouts."""
    assumptions: tuple[str, ...] = ()
    estimator: Estimator | None = None
    """Stages: method, curvature and readout of the effects. Steps and parts: of what they add up to over a stage."""
    calibration: Calibration | None = None
    """What really retraining this run said of every estimator of stages, if that was done; maybe on more examples."""
    moved: float | None = None
    """Stages, boundary: the largest distance that one moved the parameters, over the norm of the final parameters."""
    judged: int | None = None
    """On how many of the run's evaluation examples the effects are, where that is known."""
    blind: str = ""
    """What the effects do not see though it decides, where there is such a thing: nothing is trusted then."""
    displacements: tuple[float, ...] | None = None
    """Stages, boundary: how far each moved the parameters, in their own unit."""
    replay_drift: float | None = None
    """Largest drift of a replay from the checkpoints of this run that were met so far, relative to the change between
    two of them; None where none was. `aa check` meets all."""
    others: Mapping[str, Agreement] = field(default_factory=dict)
    """Stages: how well each estimator agrees with this one, once `aa.with_disagreement` has asked."""
    remainders: tuple[Remainder, ...] = ()
    """Stages: a bound on the error, once `aa.with_remainders` has spent the gradients that it costs."""

    @property
    def verdict(self) -> Verdict:
        """What the effects may be trusted for: as retraining said, else as the figures say."""
        known = self.calibration.find(*self.estimator) if self.calibration and self.estimator else None
        if self.blind and (known is None or self.readout_spread is None):
            return Verdict("nothing", self.blind)
        if known is not None and self.readout_spread is None:
            return lesser(self._borne_out(known, "added up over each stage and "), judge_growth(self.growth))
        if known is not None:
            verdict = self._borne_out(known)
            return verdict._replace(reason=verdict.reason + self._unlike())
        if self.estimator and self.estimator[0] == SEGMENTS and self.readout_spread is None:
            return UNMEASURED
        if self.estimator is None or self.readout_spread is None or self.signs_agree is None:
            return judge_growth(self.growth)
        judged = judge_readouts(self.estimator, self.readout_spread, self.signs_agree, self.moved)
        return judged._replace(approximated=self.estimator[0] == SEGMENTS)

    @property
    def words(self) -> str:
        """The verdict in a sentence or two."""
        return self.verdict.words

    @property
    def noise_of_mean(self) -> float | None:
        """How far the true mean effect moves by itself: at most as far as on any one example, where these are but some
        of those that it was measured on. None where it was not, and for steps and parts of stages."""
        known = self.calibration
        if known is None or self.readout_spread is None:
            return None
        return known.noise_of(known.values if self.judged is None else self.judged)

    def _borne_out(self, known: Figures, what: str = "") -> Verdict:
        """The verdict of the calibration, which says who measured it, and on what."""
        assert self.calibration is not None
        checked = f"{what}{self.calibration.source}"
        checked = f"{checked[0].upper()}{checked[1:]}{self._among()}"
        return judge_calibrated(known)._replace(verified=self.calibration.here, checked=checked)

    def _among(self) -> str:
        """Which examples retraining was judged on, and which of them the effects are on."""
        if self.calibration is None or self.judged is None:
            return ""
        every = self.calibration.values
        of = "this is one" if self.judged == 1 else f"these are {self.judged:,}"
        some = "" if self.judged == every else f", of which {of}"
        stop = "" if self.calibration.here else ","
        return f"{stop} on all {every:,} examples{some}"

    def _unlike(self) -> str:
        """What speaks against believing of some of the examples what retraining said of all."""
        if self.judged is None or self.calibration is None or self.judged == self.calibration.values:
            return ""
        differ = 1 - (1 if self.signs_agree is None else self.signs_agree)
        on = "this one" if self.judged == 1 else f"these {self.judged:,}"
        return f"; on {on} the readouts disagree in sign for {100 * differ:.0f} % of the stages" if differ else ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values; of the calibration, only the figures of this estimator."""
        known = self.calibration.find(*self.estimator) if self.calibration and self.estimator else None
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "others": {name: found._asdict() for name, found in self.others.items()},
            "remainders": [r.to_dict() for r in self.remainders],
            "calibration": None if known is None else known.model_dump(mode="json"),
            "verdict": self.verdict._asdict(),
            "words": self.words,
        }


def assess(
    run: RunLike,
    training: Training,
    growth: float,
    semantics: Semantics,
    curvature: Curvature,
    readings: Mapping[Any, Tensor] | None = None,
) -> Reliability:
    """Collect the figures for a result that was just computed; `readings` are [units, values] per readout."""
    spread, signs = (None, None) if readings is None else disagreement(readings)
    last, rule = load(run, training, run.checkpoints[-1]), next((r for r in training.rules if r.blind), None)
    blind = "" if rule is None else f"For this optimizer, {rule.blind}"
    moved = moving(run, training)
    if readings is None and moved.held and not blind:
        blind = HELD.format(", ".join(moved.held))
    buffers = _of_buffers(run, training, moved, followed=readings is not None)
    return Reliability(
        growth,
        _effective_lr(run, training),
        _stiff_share(training, last.state.slots),
        spread,
        signs,
        (*_assumptions(training, semantics, curvature), *buffers, *_rounded(run)),
        blind=blind,
        replay_drift=training.problem.drifts.get(run.digest),
    )


def disagreement(readings: Mapping[Any, Tensor]) -> tuple[float, float]:
    """(spread, share of same signs) of the units' mean effects over the readouts."""
    means = torch.stack([effects.mean(1) for effects in readings.values()])
    size = means.abs().mean(0).sum()
    spread = float((means.max(0).values - means.min(0).values).sum() / size) if size > 0 else 0.0
    differ = signs_differ(readings)
    return spread, 1.0 - sum(differ) / len(differ) if differ else 1.0


def signs_differ(readings: Mapping[Any, Tensor]) -> list[bool]:
    """For each unit: do the readouts disagree in the sign of its mean effect?"""
    signs = torch.stack([effects.mean(1) for effects in readings.values()]).sign()
    return (signs != signs[0]).any(0).tolist()


def _assumptions(training: Training, semantics: Semantics, curvature: Curvature) -> tuple[str, ...]:
    curved = {"ggn": "curvature: generalised Gauss-Newton, not the exact Hessian", "none": "curvature neglected"}
    return (
        f"{semantics}: {SEMANTICS[semantics]}",
        WALL_CLOCK,
        "first order in the change that is propagated",
        *([curved[curvature]] if curvature in curved else []),
        *(assumption for rule in training.rules for assumption in rule.assumptions),
        *(rule.blind for rule in training.rules if rule.blind),
        *([ANEW] if len(training.stretches) > 1 else []),
        *([ATTENTION] if any(stretch.problem.fused_attention for stretch in training.stretches) else []),
    )


def _of_buffers(run: RunLike, training: Training, moved: Moving, *, followed: bool) -> tuple[str, ...]:
    """`followed`: running statistics go with the parameters, as they do wherever embeddings are read."""
    if next(training.problem.model.buffers(), None) is None:
        return ()
    if not followed:
        known = moved.followed and not moved.held
        return (DIFFERENTIATED if known else "model buffers are held at their recorded values",)
    evaluated = any(moved) and not all(run.record(k).training for k in range(beginning_of_last(run), run.steps))
    return (FOLLOWED, EVALUATED) if evaluated else (FOLLOWED,)


def _rounded(run: RunLike) -> tuple[str, ...]:
    """Mixed precision, if a stage begins with it."""
    found = {run.record(s.start).precision.autocast for s in run.stages if len(s)} - {None}
    return tuple(f"{dtype} autocast is replayed as recorded; derivatives look past its rounding" for dtype in found)


def _effective_lr(run: RunLike, training: Training) -> float:
    known = training.problem.effective_lr
    if run.digest not in known:
        rates = (training.stretch(k).rule.effective_lr(h) for k in range(run.steps) for h in run.record(k).hyper)
        known[run.digest] = max(rates, default=0.0)
    return known[run.digest]


def _stiff_share(training: Training, slots: dict[str, Params]) -> float:
    stiff = training.stretches[-1].rule.stiff
    if stiff is None:
        return 0.0
    names = next(iter(slots.values()))
    masks = [stiff({s: slots[s][n] for s in slots}) for n in names]
    return float(sum(m.sum() for m in masks)) / max(sum(m.numel() for m in masks), 1)
