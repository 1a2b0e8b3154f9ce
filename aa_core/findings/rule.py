"""When a retraining confirms a claim, when it refutes it, and when it does neither."""

from __future__ import annotations

from typing import Literal

from aa_core.findings.entries import Extent

FACTOR = 2.0
RULES: dict[Extent, str] = {
    "sign": "Confirmed if a stored retraining of the very question has the sign of the estimate, refuted if it has the "
    "other sign; neither if it is no larger than the noise floor, where one is stored, or zero.",
    "size": "Confirmed if a stored retraining of the very question has the sign of the estimate and lies within a "
    "factor of two of it; refuted if it has the other sign, or if nothing within its noise floor lies within that "
    "factor; else neither.",
}
Judgement = Literal["confirmed", "refuted", "neither"]


def judge(estimate: float, truth: float, extent: Extent, noise: float | None) -> Judgement:
    """What a retraining says of a claim; see RULES. All in the unit of the effect."""
    floor = noise or 0.0
    heard = abs(truth) > floor
    if heard and estimate * truth < 0:
        return "refuted"
    if extent == "sign":
        return "confirmed" if heard and estimate * truth > 0 else "neither"
    low, high = sorted((estimate / FACTOR, estimate * FACTOR))
    if heard and low <= truth <= high:
        return "confirmed"
    return "neither" if low - floor <= truth <= high + floor else "refuted"
