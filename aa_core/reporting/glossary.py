"""Every word that reports and screens share: labels, units, the sign convention, number formats, explanations."""

from __future__ import annotations

import math
from collections.abc import Iterable

from aa_core.confidence.verdict import SEGMENTS
from aa_core.counterfactuals.counterfactual import WALL_CLOCK

SIGN = "positive = the {thing} helped, negative = it hurt"
EFFECT = "effect = performance as recorded − performance without the stage"
INTERVAL = (
    "95 % bootstrap interval over the examples: how much the mean depends on which examples were drawn. "
    "It does not contain the error of the estimator."
)
READOUT_RANGE = "Range of readouts: the smallest and the largest of three first-order readings of the same effect."

CURVES = {"loss": "training loss", "lr": "learning rate", "grad_norm": "gradient norm"}
"""What is recorded of every step."""
UNITS = {"nats": "nats per example", "probability": "on a scale of 0 to 1"}
PERFORMANCES = {
    "log-likelihood": "the log-probability that the model gives to the correct label",
    "probability": "the probability that the model gives to the correct label",
    "margin": "the log-odds of the correct label against all others together",
}
CONFOUNDED = "the log-probability that the model gives to the class that the column “{}” names"
SQUARED = "the squared distance of the model’s output from the target, times −1"
METHODS = {
    "boundary": "The change that the stage made to weights and optimizer state is carried to the end of training "
    "through the derivatives of all later steps; what happened inside the stage is exact.",
    "midpoint": "As boundary, but the derivatives are taken half way between the recorded weights and the mean of "
    "those that the stages' absence predicts: closer while training is smooth, and worse where it amplifies changes.",
    "additive": "Every step’s own change is carried to the end of training through the derivatives of all later steps, "
    "and the results are summed over the stage.",
}
APPROXIMATED = {
    SEGMENTS: "The change that the stage made to the weights is known exactly. How later stages carried it on is "
    "approximated: between two known states curvature, preconditioner and learning rate are taken to stand still, and "
    "nothing of their batches is known. Φ takes a change through one such piece: K steps of rate η, curvature H, "
    "the preconditioner P and the penalty λ; weight decay apart from the gradient is a factor.",
}
"""No choice: it is the method where only checkpoints are known."""
CURVATURES = {
    "exact": "Later steps react to the change with the exact Hessian of their recorded loss.",
    "ggn": "Later steps react to the change with the Gauss-Newton part of the Hessian, which stays bounded.",
    "none": "Later steps are taken not to react to the change: curvature is neglected.",
}
ADDS_UP = {
    "layer": "The parts of a stage add up to its effect by the boundary method, read linearly. "
    "Where Effect has another estimator’s number, far from that, neither can be relied on.",
    "cause": "The parts of a stage add up to the sum of the effects of its steps, which may "
    "differ from the effect of the whole stage, in sign, too. Momentum is what the optimizer would "
    "have done by itself; data is what this stage’s own examples added.",
}
"""What the parts of an effect are, by what it is split."""
PATH_SHARES = (
    "Exact, and no effect: what a stage taught and a later one erased is in its share; what it only prepared is not."
)
READOUTS = {
    "linear": "The performance is read off along its gradient at the final weights.",
    "displaced": "The performance is measured at the final weights with the change taken away.",
    "link": "The model’s outputs are linearised at the final weights; the performance is computed from them exactly.",
}
SEMANTICS = {
    "freeze": "Without a stage means: its updates did not occur; weights and optimizer state stood still meanwhile.",
    "zero_gradient": "Without a stage means: its data were ignored; weight decay and momentum went on.",
}
LATER_STEPS = f"In the comparison, {WALL_CLOCK}."
EMBEDDINGS = {
    "boundary": "E_S = M_{K−1} ⋯ M_{e} (ξ_e − ξ_s)",
    "midpoint": "E_S = M_{K−1} ⋯ M_{e} (ξ_e − ξ_s), M_k at θ_k − ½ mean of d_k over the stages",
    SEGMENTS: "E_S ≈ Φ_n ⋯ Φ_1 (θ_e − θ_s),  Φ = √P exp(−η K √P (H + λ) √P) √P⁻¹",
    "additive": "E_S = Σ_{k∈S} M_{K−1} ⋯ M_{k+1} Δ_k",
}
FORMULAS = {
    "linear": "τ_S(x) ≈ ⟨∇γ(θ_K; x), E_S⟩",
    "displaced": "τ_S(x) ≈ γ(θ_K; x) − γ(θ_K − E_S; x)",
    "link": "τ_S(x) ≈ γ(f) − γ(f − J E_S),  f = f(x; θ_K)",
}
SYMBOLS = (
    "γ is the performance, θ_K the final weights, ξ the state before a step (weights and optimizer state), M_k the "
    "derivative of step k, Δ_k the change that it made; stage S takes the steps s to e − 1. E_S is what the change of "
    "the stage became by the end of training, d_k the same before step k; f are the model's outputs, J is their "
    "derivative in the weights."
)
STATUS = {
    "estimate": "Estimate only",
    "confirmed": "Sign confirmed by retraining",
    "partly": "Partly confirmed by retraining",
    "refuted": "Contradicted by retraining",
}
TERMS = {
    "Effect": "The performance as recorded minus the performance had the stage, step or example not been there. "
    "Positive: it helped.",
    "Performance": "What the model is judged by on an example; larger is better.",
    "Nat": "Unit of a log-likelihood: 0.69 nats are a factor of two in probability.",
    "Stage, step": "A named part of the training; one update of the weights.",
    "State": "Weights and the optimizer’s own memory before a step.",
    "Retraining": "Really training again from a stored state without what is in question, all else as recorded.",
    "Estimate": "An effect computed from derivatives of the recorded training, to first order, without training again.",
    "Readout": "How a change of the final weights is turned into a change of the performance.",
    "Calibration": "Every stage really left out once, and each estimator compared with that.",
    "Noise floor": "How far the truth itself moves when the first weights are moved by a millionth of themselves.",
    "Interval": "Where the mean would lie for most other draws of examples of the same kind and number.",
    "Subgroup": "The evaluation examples that share a class or a value of their metadata.",
    "Digest": "Sixty-four hexadecimal digits (sha256) that change when a single bit of what they pin changes.",
    "Signature": "Says who wrote a file, to whoever knows the public key. It does not say that the content is true.",
}
MINUS = "\N{MINUS SIGN}"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def sign(thing: str = "stage") -> str:
    """The sign convention, as every chart states it."""
    return SIGN.format(thing=thing)


def unit_words(unit: str) -> str:
    """ "nats" -> "nats per example"."""
    return UNITS.get(unit, f"{unit} per example")


def performance_words(name: str) -> str:
    """What a performance is; empty for one of the caller's own."""
    kind, colon, column = name.partition(":")
    if kind == "confounder" and colon:
        return CONFOUNDED.format(column)
    return SQUARED if name == "negative squared error" else PERFORMANCES.get(name, "")


def axis_title(performance: str, unit: str) -> str:
    """ "effect on log-likelihood, nats per example"."""
    return f"effect on {performance}, {unit_words(unit)}"


def fmt_effect(value: float | None, scale: float | None = None) -> str:
    """A signed effect, "+0.120"; `scale`, the largest value of its column, fixes the number of decimals."""
    if value is None or not math.isfinite(value):
        return "n/a"
    size = abs(scale if scale else value)
    if size and not 1e-4 <= size < 1e6:
        return _minus(f"{value:+.2e}" if value else "0")
    decimals = max(0, min(6, 2 - math.floor(math.log10(size)))) if size else 0
    text = f"{value:+.{decimals}f}"
    return _minus(text if float(text) else text[1:])


def fmt_number(value: float | None, digits: int = 3) -> str:
    """An unsigned figure to so many significant digits."""
    return "n/a" if value is None or not math.isfinite(value) else _minus(f"{value:.{digits}g}")


def fmt_small(value: float) -> str:
    """A small positive figure to two digits, 6.1e-08 -> "6.1 × 10⁻⁸"; 0.012 as it is."""
    if not value or abs(value) >= 1e-3:
        return fmt_number(value, 2)
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa} × {power_of_ten(int(power))}"


def by_chance(intervals: int) -> str:
    """How many of so many 95 % intervals leave out zero where nothing acts: 7 -> "0.35", 2,400 -> "120"."""
    return f"{0.05 * intervals:,.0f}" if intervals >= 200 else f"{0.05 * intervals:.2g}"


def power_of_ten(power: int) -> str:
    """-8 -> "10⁻⁸"."""
    return "10" + str(power).translate(SUPERSCRIPTS)


def fmt_percent(share: float | None) -> str:
    """0.934 -> "93 %"; never 0 % or 100 % for what is neither."""
    if share is None or not math.isfinite(share):
        return "n/a"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "< 1 %" if share < 0.5 else "> 99 %"
    return f"{100 * share:.0f} %"


def fmt_correlation(r: float | None) -> str:
    """0.987 -> "0.99"; what rounds to nothing has no sign."""
    return "n/a" if r is None or not math.isfinite(r) else _minus(f"{r:z.2f}")


def fmt_count(count: int) -> str:
    """1234567 -> "1,234,567"."""
    return f"{count:,}"


def fmt_interval(low: float | None, high: float | None, scale: float | None = None) -> str:
    """ "+0.10 to +0.14", or a dash where there is none."""
    return "–" if low is None or high is None else f"{fmt_effect(low, scale)} to {fmt_effect(high, scale)}"


def fmt_seconds(seconds: float | None) -> str:
    """ "0.4 s", "75 s", "12 min"."""
    if seconds is None:
        return "–"
    if seconds < 0.05:
        return "< 0.1 s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def scale_of(values: Iterable[float | None]) -> float:
    """The largest magnitude, for `fmt_effect`."""
    return max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)


def listed(names: Iterable[str]) -> str:
    """ "a, b and c"."""
    *first, last = list(names) or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _minus(text: str) -> str:
    return text.replace("-", MINUS)
