"""The dashboard's one door to the engine: asks for plain values, answers with tables. Computes each thing once."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import streamlit as st
import torch
from torch import Tensor

from aa_core.attribution import Attribution, predict, stage_effects, step_effects
from aa_core.counterfactual import Counterfactual
from aa_core.errors import AuditError, RequestError
from aa_core.evaluation import Evaluation
from aa_core.jobs import Job, JobSpec, all_jobs, find, retrainings, submit, whatif_spec
from aa_core.problem import Problem
from aa_core.registry import load_problem
from aa_core.reliability import Reliability, disagreement
from aa_core.reporting import Report, build_report, escape, figures, glossary, to_html, to_json, to_zip
from aa_core.reporting.bootstrap import bootstrap_interval
from aa_core.retrain import final_model
from aa_core.run_performance import run_performance
from aa_core.trajectory import Trajectory, check_integrity, open_run
from dashboard.catalog import find_runs, stamp
from dashboard.examples import filter_columns, passing
from dashboard.memo import Memo
from dashboard.pictures import shown
from dashboard.selection import FILTERS, Facts, Readout, Selection

__all__ = [
    "Job",
    "JobSpec",
    "Report",
    "escape",
    "figures",
    "find",
    "glossary",
    "submit",
    "to_html",
    "to_json",
    "to_zip",
]

Progress = Callable[[int, int], None]
torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))  # the rest is for jobs; small models lose with more
CHOSEN = os.environ.get("AA_PROBLEM") or None
"""The problem that the auditor named, in place of what the runs ask for."""
ENGINE = threading.Lock()
"""The engine computes for one session at a time."""
MAX_TEXT = 240
"""Characters of a text that a tile of the gallery shows."""
MAX_BATCH = 128
"""Training examples of a step that are shown."""


@dataclass(frozen=True)
class RunEntry:
    """A run on offer; `error` says why it cannot be opened."""

    id: str
    folder: Path = field(repr=False)
    title: str
    digest: str
    error: str = ""


@dataclass(frozen=True)
class Effects:
    """Effects of stages or steps with all that has to stand beside them."""

    frame: pd.DataFrame
    """stage [, step], effect [, low, high, unsure: the readouts disagree in sign]; positive = helped."""
    unit: str
    n: int
    reliability: Reliability

    @property
    def unsure(self) -> list[str]:
        """The stages of which not even the sign is sure."""
        return [] if "unsure" not in self.frame else self.frame.loc[self.frame["unsure"], "stage"].tolist()

    @property
    def alarming(self) -> bool:
        """Does the estimate itself say that it should not simply be believed?"""
        return not self.reliability.words.startswith("No warning sign")


@dataclass(frozen=True)
class Prediction:
    """Mean performance as recorded, and as predicted without some stages; effect is the difference."""

    recorded: float
    without: float
    effect: float
    unit: str
    n: int


@st.cache_resource(show_spinner=False)
def _memo() -> Memo:
    return Memo(256)


# ---- runs ------------------------------------------------------------------------------------------------------------


def list_runs() -> dict[str, RunEntry]:
    """All runs on offer, by id."""
    return {name: _listed(name, folder) for name, folder in find_runs().items()}


def _listed(name: str, folder: Path) -> RunEntry:
    return _memo().recall(("entry", name, folder, stamp(folder)), lambda: _entry(name, folder))


def _entry(name: str, folder: Path) -> RunEntry:
    try:
        run = _open(folder, stamp(folder))
    except (AuditError, OSError) as error:
        return RunEntry(name, folder, name, "", str(error))
    return RunEntry(name, folder, run.title or name, run.digest)


@st.cache_resource(max_entries=8, show_spinner=False)
def _open(folder: Path, written: tuple[int, ...]) -> Trajectory:
    return open_run(folder)


@st.cache_resource(max_entries=8, show_spinner=False)
def _problem(digest: str, name: str | None, _config: dict[str, Any]) -> Problem:
    return load_problem(name, _config, CHOSEN)


class Desk:
    """An opened run with its problem: everything that the screens ask about it."""

    def __init__(self, entry: RunEntry) -> None:
        self.entry = entry
        self.run = _open(entry.folder, stamp(entry.folder))

    @property
    def problem(self) -> Problem:
        header = self.run.header.problem
        return _problem(self.run.digest, header.name, header.config)

    @property
    def evaluation(self) -> Evaluation:
        evaluation = self.run.evaluation
        if evaluation is None:
            raise RequestError(
                "this run was recorded without an evaluation set, so there is nothing to judge its stages by; record "
                "it again with Recorder(..., evaluation=Evaluation(x, y))"
            )
        return evaluation

    def class_names(self) -> list[str]:
        """The name of each class, as recorded, or its number."""
        count = int(self.evaluation.y.max()) + 1
        return list(self.evaluation.class_names or map(str, range(count)))

    def facts(self) -> Facts:
        """What a selection of this run can refer to."""
        stages = tuple(s.name for s in self.run.stages)
        if self.run.evaluation is None:
            return Facts(0, 0, stages)
        return Facts(
            len(self.evaluation),
            len(self.class_names()),
            stages,
            self._remember("columns", lambda: filter_columns(self.metadata())),
        )

    def _remember(self, what: Any, compute: Callable[[], Any]) -> Any:
        return _memo().recall((self.run.digest, what), compute)

    def stage_notes(self) -> pd.DataFrame:
        """One row a stage: stage, note, steps."""
        return pd.DataFrame([{"stage": s.name, "note": s.note or "–", "steps": len(s)} for s in self.run.stages])

    def summary(self) -> list[tuple[str, str]]:
        """The run in figures, as (label, value)."""
        run, wrong = self.run, self.integrity()
        parameters = sum(math.prod(t.shape) for t in run.header.parameters)
        state = "does not match its digests" if wrong else "files match their digests"
        return [
            ("Steps", f"{run.steps:,}"),
            ("Stages", str(len(run.stages))),
            ("Optimizer", run.optimizer),
            ("Trained parameters", f"{parameters:,}"),
            ("Checkpoints", str(len(run.checkpoints))),
            ("Integrity", state if run.sealed else f"{state}, not sealed"),
            *([] if run.evaluation is None else [("Evaluation set", f"{len(self.evaluation):,} examples")]),
        ]

    def accuracy(self) -> str:
        """Share of the evaluation set that the final model gets right."""
        return glossary.fmt_percent(float(self.predictions()["correct"].mean()))

    # ---- what is known without an estimate ---------------------------------------------------------------------------

    def integrity(self) -> tuple[str, ...]:
        """What is wrong with the files, in words; empty if every digest matches."""
        return self._remember("integrity", lambda: (check_integrity(self.run),))[0]

    def log(self) -> pd.DataFrame:
        """One row a step."""
        return self._remember("log", self.run.log_frame)

    def predictions(self) -> pd.DataFrame:
        """One row an evaluation example: example, label, prediction, confidence, correct, then the metadata."""
        with self._engine("predictions"):
            return self._remember("predictions", self._predictions)

    def _predictions(self) -> pd.DataFrame:
        evaluation, problem = self.evaluation, self.problem
        model = final_model(self.run, problem)
        gamma = run_performance(self.run, "log-likelihood")
        with torch.no_grad():
            chunks = [problem.outputs(model.params, dict(model.buffers), x) for x, _ in gamma.chunks(problem.device)]
            shares = torch.cat(chunks).double().softmax(1).cpu()
        confidence, prediction = shares.max(1)
        labels, names = evaluation.y.cpu(), np.array(self.class_names(), dtype=object)
        frame = pd.DataFrame({"example": range(len(labels)), "label": labels.numpy(), "prediction": prediction.numpy()})
        return frame.assign(
            label_name=names[frame["label"]],
            prediction_name=names[frame["prediction"]],
            confidence=confidence.numpy(),
            correct=frame["label"] == frame["prediction"],
        )

    def shown(self, rows: list[int]) -> list[dict[str, str]]:
        """A picture or words for each of these evaluation examples."""
        evaluation = self.evaluation
        if (evaluation.display or {}).get("kind") == "text" and "text" in self.metadata():
            return [{"text": str(words)[:MAX_TEXT]} for words in self.metadata()["text"].iloc[rows]]
        return self._remember(("shown", tuple(rows)), lambda: shown(evaluation.x, rows, evaluation.display))

    def metadata(self) -> pd.DataFrame:
        """The evaluation set's own columns; empty if it has none."""
        metadata = self.evaluation.metadata
        return pd.DataFrame(index=range(len(self.evaluation))) if metadata is None else metadata

    def rows(self, selection: Selection) -> np.ndarray:
        """The examples that the charts are about: the hand-picked ones, else all that pass the filters."""
        return np.array(selection.examples) if selection.examples else self.filtered(selection)["example"].to_numpy()

    def filtered(self, s: Selection) -> pd.DataFrame:
        """The predictions that pass the filters."""
        if not s.filtered:
            return self.predictions()
        key = ("filtered", *(getattr(s, name) for name in FILTERS))
        return self._remember(key, lambda: passing(s, self.predictions(), self.metadata()))

    # ---- estimates ---------------------------------------------------------------------------------------------------

    def stage_effects(self, s: Selection, progress: Progress) -> Effects:
        """The mean effect of each stage on the selected examples, with its interval over the examples."""
        every = self._every_stage(s, progress)
        rows = self.rows(s)
        return self._remember(
            ("mean", *_request(s), s.readout, rows.tobytes()), lambda: _mean_over(every, rows, s.readout)
        )

    def _every_stage(self, s: Selection, progress: Progress) -> Attribution:
        """All stages on all examples, in all readouts: whatever is selected later is a mean over this."""

        def compute() -> Attribution:
            return stage_effects(
                self.run,
                self.problem,
                run_performance(self.run, s.performance),
                method=s.method,
                curvature=s.curvature,
                semantics=s.semantics,
                progress=progress,
            )

        with self._engine(_request(s)):
            return self._remember(_request(s), compute)

    def step_effects(self, s: Selection, progress: Progress) -> Effects:
        """The effect of each step of the zoomed stage on the mean of the selected examples."""
        found = self._steps_from(s, self.rows(s), progress)
        frame = found.to_frame()[["step", "stage", "effect"]]
        frame = frame[frame["stage"] == s.stage].reset_index(drop=True)
        return Effects(frame, found.unit, len(self.rows(s)), found.reliability)

    def _steps_from(self, s: Selection, rows: np.ndarray, progress: Progress) -> Attribution:
        """The steps of the zoomed stage and of all later ones: the backward sweep passes them anyway."""
        names = [stage.name for stage in self.run.stages]
        place = names.index(s.stage)
        base = ("steps", s.performance, s.curvature, s.semantics, rows.tobytes())
        known = ((*base, name) for name in names[: place + 1] if (self.run.digest, (*base, name)) in _memo())
        key = next(known, (*base, s.stage))

        def compute() -> Attribution:
            return step_effects(
                self.run,
                self.problem,
                run_performance(self.run, s.performance, rows.tolist()).mean(),
                stages=names[place:],
                curvature=s.curvature,
                semantics=s.semantics,
                progress=progress,
            )

        with self._engine(key):
            return self._remember(key, compute)

    def predicted(self, s: Selection, progress: Progress) -> Prediction:
        """What leaving out `s.skip` would do to the selected examples."""
        key = ("what-if", s.skip, s.performance, s.curvature, s.readout, s.semantics)
        what = Counterfactual.skip(*s.skip, semantics=s.semantics)
        gamma = run_performance(self.run, s.performance)

        def compute() -> tuple[np.ndarray, np.ndarray]:
            effects = predict(
                self.run, self.problem, what, gamma, readout=s.readout, curvature=s.curvature, progress=progress
            )
            return effects.numpy(), final_model(self.run, self.problem).performance(gamma).double().cpu().numpy()

        with self._engine(key):
            effects, recorded = self._remember(key, compute)
        rows = self.rows(s)
        effect, before = float(effects[rows].mean()), float(recorded[rows].mean())
        return Prediction(before, before - effect, effect, gamma.unit, len(rows))

    def batch(self, step: int) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        """The training examples of a step: (place, id, label), and what they look like."""
        return self._remember(("batch", step), lambda: self._batch(step))

    def _batch(self, step: int) -> tuple[pd.DataFrame, list[dict[str, str]]]:
        rows = torch.cat([micro.rows for micro in self.run.record(step).micro_batches])[:MAX_BATCH]
        examples, ids = self.run.examples(rows), self.run.example_ids(rows)
        names = self.class_names()
        known = [names[y] if 0 <= y < len(names) else str(y) for y in examples.targets.tolist()]
        frame = pd.DataFrame({"example": range(len(rows)), "id": ids or rows.tolist(), "label": known})
        display = None if self.run.evaluation is None else self.run.evaluation.display
        return frame, shown(examples.inputs, list(range(len(rows))), display)

    # ---- retraining --------------------------------------------------------------------------------------------------

    def question(self, s: Selection) -> JobSpec:
        """The what-if that is picked, as a job: the same question is the same job, in every session."""
        rows = self.rows(s).tolist()
        return whatif_spec(
            self.run,
            Counterfactual.skip(*s.skip, semantics=s.semantics),
            s.performance,
            None if len(rows) == len(self.evaluation) else rows,
            readout=s.readout,
            curvature=s.curvature,
            problem=CHOSEN,
        )

    def job(self, s: Selection) -> Job | None:
        """The job of this question, if it was ever asked."""
        try:
            return find(self.question(s).id)
        except RequestError:
            return None

    def asked(self, job: Job, s: Selection) -> Selection:
        """The selection that asks the question of a past what-if again."""
        request: Mapping[str, Any] = job.spec.request
        chosen = {name: request[name] for name in ("performance", "semantics", "curvature", "readout")}
        return replace(s.everything, **chosen, skip=tuple(request["skip"]), examples=tuple(request["examples"] or ()))

    def past(self) -> list[Job]:
        """All what-ifs of this run, newest first."""
        return [job for job in all_jobs() if job.spec.kind == "whatif" and job.spec.digest == self.run.digest]

    def report(self, s: Selection, with_steps: bool, date: str, progress: Progress) -> Report:
        """All of this selection as a report, with every retraining of the run."""
        rows = self.rows(s)
        found = retrainings(self.run)
        key = ("report", *_request(s), s.readout, rows.tobytes(), with_steps, date, repr(found))

        def compute() -> Report:
            return build_report(
                self.run,
                self.problem,
                performance=s.performance,
                examples=None if len(rows) == len(self.evaluation) else rows.tolist(),
                method=s.method,
                curvature=s.curvature,
                readout=s.readout,
                semantics=s.semantics,
                whatifs=found,
                with_steps=with_steps,
                date=date,
                progress=progress,
            )

        with self._engine(key):
            return self._remember(key, compute)

    @contextmanager
    def _engine(self, key: Any) -> Iterator[None]:
        """Alone with the engine, unless the answer is already there."""
        if (self.run.digest, key) in _memo():
            yield
            return
        with ENGINE:
            yield


def comparison(found: Mapping[str, Any]) -> pd.DataFrame:
    """The means of a retraining, as bars."""
    return pd.DataFrame({"stage": ["Estimated", "Retrained"], "effect": [found["mean_estimate"], found["mean_truth"]]})


def verdict(found: Mapping[str, Any]) -> Literal["refuted", "sign", "confirmed"]:
    """Whether the retraining bears the estimated mean out: its sign, and its size to a factor of two."""
    estimate, truth = found["mean_estimate"], found["mean_truth"]
    if estimate * truth <= 0:
        return "refuted"
    return "confirmed" if 0.5 <= truth / estimate <= 2 else "sign"


def _signs_differ(readings: Mapping[Any, Tensor]) -> list[bool]:
    """For each stage: do the readouts disagree in the sign of its mean effect?"""
    signs = torch.stack([values.mean(1) for values in readings.values()]).sign()
    return (signs != signs[0]).any(0).tolist()


def _request(s: Selection) -> tuple[str, ...]:
    return ("stages", s.performance, s.method, s.curvature, s.semantics)


def _mean_over(every: Attribution, rows: np.ndarray, readout: Readout) -> Effects:
    """The mean over some of the examples, and what is known about how far to believe it there."""
    readings = {name: values[:, torch.from_numpy(rows.copy())] for name, values in every.readings.items()}
    chosen = readings[readout]
    low, high = bootstrap_interval(chosen)
    frame = every.units.assign(effect=chosen.mean(1).numpy(), low=low, high=high)
    spread, signs = disagreement(readings)
    frame["unsure"] = _signs_differ(readings)
    return Effects(frame, every.unit, len(rows), replace(every.reliability, readout_spread=spread, signs_agree=signs))
