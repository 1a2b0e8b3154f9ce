"""Optimizers: one file a rule, each a pure function that equals torch.optim bit for bit."""

from __future__ import annotations

import torch

from aa_core.errors import RunFormatError, UnsupportedError
from aa_core.rules.adam import ADAM, ADAMW
from aa_core.rules.base import UpdateRule
from aa_core.rules.sgd import SGD

RULES: dict[str, UpdateRule] = {rule.name: rule for rule in (SGD, ADAM, ADAMW)}
_TORCH = {torch.optim.SGD: SGD, torch.optim.Adam: ADAM, torch.optim.AdamW: ADAMW}


def rule_for(optimizer: torch.optim.Optimizer) -> UpdateRule:
    """The rule of a torch optimizer; UnsupportedError for a class or switch that cannot be replayed."""
    rule = _TORCH.get(type(optimizer))
    if rule is None:
        raise UnsupportedError(
            f"optimizer {type(optimizer).__name__} is not supported; supported are "
            f"{', '.join(f'torch.optim.{t.__name__}' for t in _TORCH)}. Use one of these, or add a rule: "
            "one pure function in aa_core/rules/."
        )
    rule.check(optimizer.param_groups)
    return rule


def rule_named(name: str) -> UpdateRule:
    """The rule that a run names in its header."""
    if name not in RULES:
        raise RunFormatError(f"the run was trained with optimizer {name!r}; this version knows {', '.join(RULES)}")
    return RULES[name]


__all__ = ["RULES", "UpdateRule", "rule_for", "rule_named"]
