"""Optimizers: one file a rule, each a pure function that equals torch.optim bit for bit."""

from __future__ import annotations

import torch

from aa_core.errors import RequestError, RunFormatError, UnsupportedError
from aa_core.rules.adagrad import ADAGRAD
from aa_core.rules.adam import ADAM, ADAMW, AMSGRAD
from aa_core.rules.adamax import ADAMAX
from aa_core.rules.base import UpdateRule
from aa_core.rules.lion import LION
from aa_core.rules.muon import MUON
from aa_core.rules.radam import RADAM
from aa_core.rules.rmsprop import RMSPROP
from aa_core.rules.sgd import SGD

_TORCH: dict[type[torch.optim.Optimizer], UpdateRule] = {
    torch.optim.SGD: SGD,
    torch.optim.Adam: ADAM,
    torch.optim.AdamW: ADAMW,
    torch.optim.RMSprop: RMSPROP,
    torch.optim.Adagrad: ADAGRAD,
    torch.optim.Adamax: ADAMAX,
    torch.optim.RAdam: RADAM,
    torch.optim.Muon: MUON,
}
RULES: dict[str, UpdateRule] = {rule.name: rule for rule in (*_TORCH.values(), *AMSGRAD.values(), LION)}


_BUILT_IN = frozenset({*_TORCH, *RULES})


def register_rule(optimizer: type[torch.optim.Optimizer], rule: UpdateRule) -> None:
    """Let an optimizer class of your own be recorded and replayed: `register_rule(MyOptimizer, rule)`.

    `rule.update` must do what one `step()` of the class does to one tensor, operation by operation, and the names of
    its slots must be those of the class's `state[p]`; `aa check` shows whether it does. Whoever opens the run registers
    the rule first, for instance in the file that rebuilds the model.

    Raises:
        RequestError: torch's own classes and the rules of this package keep their meaning.
    """
    if optimizer in _BUILT_IN or (rule.name in _BUILT_IN and RULES[rule.name] is not rule):
        raise RequestError(
            f"register_rule({optimizer.__name__}, {rule.name!r}): one of the two is built in; give your class and your "
            "rule names of their own"
        )
    _TORCH[optimizer] = RULES[rule.name] = rule


def rule_for(optimizer: torch.optim.Optimizer) -> UpdateRule:
    """The rule of an optimizer; UnsupportedError for a class or switch that cannot be replayed."""
    rule = _TORCH.get(type(optimizer))
    if rule is None:
        known = ", ".join(f"{t.__module__.partition('.')[0]}.optim.{t.__name__}" for t in _TORCH)
        raise UnsupportedError(
            f"optimizer {type(optimizer).__name__} is not supported; supported are {known}. Use one of these, or "
            "register its update as one pure function: aa_core.register_rule(YourOptimizer, rule)"
        )
    rule.check(optimizer.param_groups)
    return _with_amsgrad(rule, optimizer) if rule.name in AMSGRAD else rule


def _with_amsgrad(rule: UpdateRule, optimizer: torch.optim.Optimizer) -> UpdateRule:
    """The same rule, or the one with the additional slot; it has to be the same for all parameters."""
    wanted = {bool(group["amsgrad"]) for group in optimizer.param_groups}
    if len(wanted) > 1:
        raise UnsupportedError(
            f"{rule.name}: amsgrad differs between parameter groups, so their states are not of one kind; give all "
            "groups the same amsgrad="
        )
    return AMSGRAD[rule.name] if wanted == {True} else rule


def rule_named(name: str) -> UpdateRule:
    """The rule that a run names in its header."""
    if name not in RULES:
        raise RunFormatError(
            f"the run was trained with optimizer {name!r}; this version knows {', '.join(RULES)}. If it is one of your "
            "own, register its rule before: aa_core.register_rule(YourOptimizer, rule)"
        )
    return RULES[name]


__all__ = ["RULES", "UpdateRule", "register_rule", "rule_for", "rule_named"]
