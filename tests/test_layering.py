"""The architecture, as tests: who may import whom, and what is never called.

A rule is a function from the parsed modules to its violations; each is asserted on the checkout, and then shown to bite
on a few lines that break it (a module that does not exist yet breaks nothing).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module of aa_core imports only what stands above it, or beside it. Put a new file where it belongs.
LAYERS = (
    ("errors", "version", "progress"),
    ("runs", "recording", "checkpoints_only", "confidence", "counterfactuals", "effects"),  # rooms, by what they hold
    ("workspace", "files", "lock", "processes"),
    ("threads", "memory"),
    ("state", "stages", "records", "checkpoints_only.lanczos"),
    ("counterfactuals.reordered",),
    ("rules.numerics", "rules.*", "rules"),
    ("problem", "convolution"),
    ("curvature", "packing", "crossing"),
    ("update",),
    ("propagator",),
    (
        "runs.header",
        "runs.verified",
        "runs.commits",
        "runs.curves",
        "runs.store",
        "runs.examples",
        "runs.journal",
        "runs.columns",
        "runs.evaluation",
        "recording.live",
        "recording.machine",
        "recording.preamble",
        "runs.attached",
        "runs.remote",
        "recording.averaging",
        "recording.observer",
        "recording.claim",
        "recording.contents",
        "recording.writer",
        "recording.gradient_check",
        "recording.announced",
        "recording.untouched",
        "runs.chain",
        "plain",
        "runs.phases",
        "runs.succession",
    ),
    ("runs.trajectory",),
    ("runs.integrity",),
    (
        "checkpoints_only.checkpoints",
        "checkpoints_only.checkpoint_writer",
        "checkpoints_only.checkpoint_builder",
        "checkpoints_only.forget_steps",
    ),
    ("schedule",),
    ("replay",),
    ("recording.resume",),
    ("recording.recorder",),
    ("performance", "scores"),
    ("running_statistics",),
    ("counterfactuals.counterfactual", "counterfactuals.change", "confidence.agreement"),
    ("counterfactuals.intervention",),
    ("confidence.calibration",),
    ("confidence.verdict",),
    ("confidence.reliability",),
    ("effects.tangent", "effects.adjoint", "effects.statistics"),
    ("effects.cache",),
    ("effects.embedding",),
    ("effects.attribution",),
    ("effects.estimate",),
    (
        "effects.question",
        "effects.path_shares",
        "checkpoints_only.segments",
        "checkpoints_only.segment_effects",
        "checkpoints_only.segment_examples",
    ),
    ("effects.splits", "effects.example_effects", "confidence.remainder", "confidence.disagreement"),
    ("counterfactuals.kept",),
    ("counterfactuals.retrain", "counterfactuals.abreast"),
    ("counterfactuals.fleet", "counterfactuals.counterfactual_run"),
    ("counterfactuals.whatif", "confidence.noise"),
    ("confidence.calibrate",),
    ("registry", "signing", "plain", "run_performance", "check", "runs.archive", "runs.run_schema", "access"),
    ("confidence.borne_out",),
    ("lines",),
    ("jobs", "jobs.*"),
    ("findings", "findings.*", "access_log"),
    ("reporting", "reporting.*"),
    ("integrations", "integrations.*"),
    ("cli", "commands", "commands.*", "surface", "__init__", "__main__"),
)
UNPLACED = -1
ESTIMATORS = (
    "effects.tangent",
    "effects.adjoint",
    "effects.statistics",
    "effects.embedding",
    "effects.attribution",
    "effects.estimate",
)
RETRAIN = "counterfactuals.retrain"
SHARED_WITH_RETRAIN = {"replay", "counterfactuals.counterfactual", "counterfactuals.intervention", "performance"}
LAZY = {"ray", "transformers", "lightning", "pytorch_lightning", "sklearn", "typst", "model_signing", "cryptography"}
UNSAFE_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
UNSAFE_NAMES = {"eval", "exec", "builtins.eval", "builtins.exec"} | {
    f"torch.{name}" for name in ("load", "jit.load", "hub.load", "export.load", "distributed.checkpoint")
}
UNSAFE_METHODS = {"read_pickle", "to_pickle", "read_parquet"}
UNSAFE_ARGUMENTS = {"allow_pickle", "unsafe_allow_html"}


# ---- reading the code ------------------------------------------------------------------------------------------------


class Module(NamedTuple):
    """A parsed file; `package` says that it is an `__init__.py`."""

    tree: ast.Module
    package: bool


class Import(NamedTuple):
    """An imported module (or module.name, for a name that is no module of ours); `lazy` if not run on import."""

    target: str
    line: int
    lazy: bool


Modules = Mapping[str, Module]
Rule = Callable[[Modules], list[str]]


def read_modules(*folders: str) -> Modules:
    """Dotted name -> parsed file, of every Python file in these folders."""
    modules = {}
    for path in sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__"
        modules[".".join(parts[:-1] if package else parts)] = Module(ast.parse(path.read_text("utf-8")), package)
    return modules


def imports(name: str, modules: Modules) -> Iterator[Import]:
    """Every import of a module, those inside functions and under TYPE_CHECKING (both lazy) too."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, name, modules[name].package)
            for target in {full if (full := f"{source}.{a.name}") in modules else source for a in node.names}:
                yield Import(target, node.lineno, lazy)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    return visit(modules[name].tree, False)


def _absolute(node: ast.ImportFrom, name: str, package: bool) -> str:
    if not node.level:
        return node.module or ""
    parents = name.split(".")
    parents = parents[: len(parents) - node.level + package]
    return ".".join([*parents, *([node.module] if node.module else [])])


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def within(target: str, *packages: str) -> bool:
    """Is `target` one of these packages, or inside one?"""
    return any(target == package or target.startswith(f"{package}.") for package in packages)


def short(name: str) -> str:
    """aa_core.rules.adam -> rules.adam; aa_core -> __init__."""
    return name.removeprefix("aa_core").removeprefix(".") or "__init__"


def engine_graph(modules: Modules) -> dict[str, set[str]]:
    """Module of aa_core -> the modules of aa_core that it imports, by their short names."""
    return {
        short(name): {short(i.target) for i in imports(name, modules) if within(i.target, "aa_core")}
        for name in modules
        if within(name, "aa_core")
    }


def reaches(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All that `start` imports, directly or through others."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph.get(todo.pop(), set()) - seen
        seen |= new
        todo += new
    return seen


def layer(name: str) -> int:
    """Index in LAYERS, or UNPLACED; a full name wins over a pattern."""
    exact = (i for i, names in enumerate(LAYERS) if name in names)
    pattern = (i for i, names in enumerate(LAYERS) if any(fnmatch(name, n) for n in names))
    return next(exact, next(pattern, UNPLACED))


def dotted_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that the code uses, with import aliases resolved: `t.load` is torch.load after `import torch as t`."""
    alias = {a.asname: a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names if a.asname}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            alias |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            head, *rest = ast.unparse(node).split(".")
            yield ".".join([alias.get(head, head), *rest]), node.lineno


# ---- the rules -------------------------------------------------------------------------------------------------------


def unplaced_modules(modules: Modules) -> list[str]:
    return [f"aa_core.{name} has no place in LAYERS" for name in engine_graph(modules) if layer(name) == UNPLACED]


def downward_imports(modules: Modules) -> list[str]:
    return [
        f"{name} imports {target}, which stands below it in LAYERS"
        for name, targets in engine_graph(modules).items()
        for target in targets
        if UNPLACED < layer(name) < layer(target)
    ]


def cycles(modules: Modules) -> list[str]:
    try:
        TopologicalSorter(engine_graph(modules)).prepare()
    except CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def tangent_adjoint_links(modules: Modules) -> list[str]:
    graph = engine_graph(modules)
    return [f"{a} reaches {b}" for a, b in permutations(ESTIMATORS[:2]) if b in reaches(graph, a)]


def retrain_estimator_links(modules: Modules) -> list[str]:
    graph = engine_graph(modules)
    machinery = {name for name in graph if layer(name) >= layer("replay")}
    linked = [f"retrain reaches {e}" for e in ESTIMATORS if e in reaches(graph, RETRAIN)]
    linked += [f"{e} reaches retrain" for e in ESTIMATORS if RETRAIN in reaches(graph, e)]
    for estimator in ESTIMATORS:
        common = graph.get(estimator, set()) & graph.get(RETRAIN, set()) & machinery
        linked += [f"retrain and {estimator} share {name}" for name in sorted(common - SHARED_WITH_RETRAIN)]
    return linked


def _found(modules: Modules, where: Callable[[str], bool], bad: Callable[[Import], bool]) -> list[str]:
    return [
        f"{name}, line {i.line}: imports {i.target}"
        for name in modules
        if where(name)
        for i in imports(name, modules)
        if bad(i)
    ]


def screens_in_the_engine(modules: Modules) -> list[str]:
    return _found(modules, lambda m: within(m, "aa_core"), lambda i: within(i.target, "streamlit", "dashboard"))


def streamlit_outside_the_dashboard(modules: Modules) -> list[str]:
    return _found(modules, lambda m: not within(m, "dashboard"), lambda i: within(i.target, "streamlit"))


def engine_behind_the_services_back(modules: Modules) -> list[str]:
    return _found(
        modules,
        lambda m: within(m, "dashboard") and not within(m, "dashboard.service", "dashboard.light"),
        lambda i: within(i.target, "aa_core") and not within(i.target, "aa_core.errors"),
    )


def eager_optional_imports(modules: Modules) -> list[str]:
    return _found(modules, lambda m: within(m, "aa_core"), lambda i: not i.lazy and within(i.target, *LAZY))


def unsafe_loading(modules: Modules) -> list[str]:
    found = _found(modules, lambda m: True, lambda i: within(i.target, *UNSAFE_MODULES))
    for name, module in modules.items():
        found += [
            f"{name}, line {line}: {used}"
            for used, line in dotted_names(module.tree)
            if within(used, *UNSAFE_NAMES) or used.rpartition(".")[2] in UNSAFE_METHODS
        ]
        found += [
            f"{name}, line {node.value.lineno}: {node.arg}"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.keyword) and node.arg in UNSAFE_ARGUMENTS and ast.unparse(node.value) != "False"
        ]
    return found


# ---- the checkout keeps them -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped() -> Modules:
    return read_modules("aa_core", "dashboard")


def keeps(rule: Rule, modules: Modules) -> None:
    """Fail with one violation a line."""
    violations = rule(modules)
    assert not violations, "\n" + "\n".join(violations)


def test_every_engine_module_has_a_place_in_the_layers(shipped: Modules) -> None:
    keeps(unplaced_modules, shipped)


def test_engine_imports_point_upwards(shipped: Modules) -> None:
    keeps(downward_imports, shipped)


def test_engine_imports_have_no_cycle(shipped: Modules) -> None:
    keeps(cycles, shipped)


def test_tangent_and_adjoint_stand_apart(shipped: Modules) -> None:
    keeps(tangent_adjoint_links, shipped)


def test_ground_truth_shares_only_replay_and_counterfactual_with_the_estimators(shipped: Modules) -> None:
    keeps(retrain_estimator_links, shipped)


def test_engine_knows_no_screen(shipped: Modules) -> None:
    keeps(screens_in_the_engine, shipped)


def test_only_the_dashboard_imports_streamlit() -> None:
    keeps(streamlit_outside_the_dashboard, read_modules("aa_core", "dashboard", "sample_runs", "benchmarks"))


def test_the_dashboard_reaches_the_engine_through_its_service(shipped: Modules) -> None:
    keeps(engine_behind_the_services_back, shipped)


def test_optional_packages_are_imported_when_used(shipped: Modules) -> None:
    keeps(eager_optional_imports, shipped)


def test_nothing_unpickles_or_evaluates(shipped: Modules) -> None:
    keeps(unsafe_loading, shipped)


# ---- and each of them bites ------------------------------------------------------------------------------------------

BROKEN = [
    (unplaced_modules, {"aa_core.utils": ""}),
    (downward_imports, {"aa_core.state": "from aa_core import replay", "aa_core.replay": ""}),
    (downward_imports, {"aa_core.problem": "def f():\n    from .cli import main", "aa_core.cli": ""}),
    (downward_imports, {"aa_core.rules.sgd": "from ..problem import Problem", "aa_core.problem": ""}),
    (downward_imports, {"aa_core.errors": "from aa_core import __version__"}),
    (
        cycles,
        {
            "aa_core.runs.store": "import aa_core.runs.header",
            "aa_core.runs.header": "from aa_core.runs.store import read",
        },
    ),
    (
        tangent_adjoint_links,
        {"aa_core.effects.tangent": "import aa_core.effects.adjoint", "aa_core.effects.adjoint": ""},
    ),
    (retrain_estimator_links, {"aa_core.counterfactuals.retrain": "import aa_core.effects.attribution"}),
    (
        retrain_estimator_links,
        {
            "aa_core.counterfactuals.retrain": "import aa_core.effects.cache",
            "aa_core.effects.cache": "import aa_core.effects.embedding",
        },
    ),
    (
        retrain_estimator_links,
        {
            "aa_core.counterfactuals.retrain": "import aa_core.effects.cache",
            "aa_core.effects.tangent": "import aa_core.effects.cache",
            "aa_core.effects.cache": "",
        },
    ),
    (screens_in_the_engine, {"aa_core.cli": "def main():\n    import dashboard.app"}),
    (streamlit_outside_the_dashboard, {"sample_runs.record": "from streamlit import write"}),
    (engine_behind_the_services_back, {"dashboard.charts": "from aa_core.replay import replay"}),
    (engine_behind_the_services_back, {"dashboard.views.jobs": "import aa_core"}),
    (eager_optional_imports, {"aa_core.jobs.cluster": "try:\n    import ray\nexcept ImportError:\n    ray = None"}),
    (unsafe_loading, {"aa_core.runs.store": "import pickle"}),
    (unsafe_loading, {"aa_core.runs.store": "import torch as t\nt.load('state.pt')"}),
    (unsafe_loading, {"aa_core.runs.store": "from torch import load\nload('state.pt')"}),
    (unsafe_loading, {"dashboard.service": "eval('1')"}),
    (unsafe_loading, {"dashboard.tables": "import numpy as np\nnp.load('a.npy', allow_pickle=True)"}),
    (unsafe_loading, {"dashboard.tables": "import pandas as pd\npd.read_pickle('a')"}),
    (unsafe_loading, {"dashboard.tables": "import pandas as pd\npd.read_parquet('a')"}),
    (unsafe_loading, {"dashboard.views.jobs": "import streamlit as st\nst.markdown(name, unsafe_allow_html=True)"}),
]
ALLOWED = [
    (downward_imports, {"aa_core.records": "from aa_core.state import State", "aa_core.state": ""}),
    (engine_behind_the_services_back, {"dashboard.charts": "from aa_core.errors import AuditError"}),
    (engine_behind_the_services_back, {"dashboard.service.desk": "from aa_core import replay"}),
    (eager_optional_imports, {"aa_core.jobs.cluster": "def start():\n    import ray"}),
    (unsafe_loading, {"aa_core.problem": "model.eval()\nimport numpy\nnumpy.load('a.npy', allow_pickle=False)"}),
]


def _parsed(sources: Mapping[str, str]) -> Modules:
    return {name: Module(ast.parse(source), package=False) for name, source in sources.items()}


def _label(value: Rule | Mapping[str, str]) -> str:
    return " ".join(value) if isinstance(value, Mapping) else value.__name__


@pytest.mark.parametrize(("rule", "sources"), BROKEN, ids=_label)
def test_a_broken_rule_is_noticed(rule: Rule, sources: Mapping[str, str]) -> None:
    assert len(rule(_parsed(sources))) == 1


@pytest.mark.parametrize(("rule", "sources"), ALLOWED, ids=_label)
def test_a_kept_rule_is_silent(rule: Rule, sources: Mapping[str, str]) -> None:
    assert rule(_parsed(sources)) == []
