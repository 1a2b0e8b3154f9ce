"""An opened run on the desk: what is known of it without an estimate."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from aa_core.checkpoints_only.checkpoints import AnyRun, CheckpointRun, check_checkpoints
from aa_core.counterfactuals.retrain import final_model
from aa_core.errors import ProblemError, RequestError
from aa_core.problem import Problem
from aa_core.records import Inputs, map_inputs
from aa_core.reporting import glossary
from aa_core.reporting.sections import stage_section
from aa_core.run_performance import confounders, run_performance
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import Trajectory
from aa_core.scores import IGNORE
from dashboard.bars import working
from dashboard.examples import filter_columns, passing
from dashboard.pictures import shown
from dashboard.selection import FILTERS, Facts, Selection
from dashboard.service import log, slices
from dashboard.service.engine import Progress, compute, memo
from dashboard.service.runs import RunEntry, evaluation_digest, opened, problem_of

MAX_TEXT = 240
"""Characters of a text that a tile of the gallery shows."""
MAX_LABEL = 12
"""Characters of a sequence's label: its last ones, as predictions are of the last place."""
PARTS = 8
"""Of what the engine computes at once: the bar moves that much more often."""
CHANGEABLE = ("lr", "momentum", "weight_decay")
"""Hyperparameters that a what-if offers to change."""


class Desk:
    """A run with its problem and its evaluation set: everything that the screens ask about it."""

    def __init__(self, entry: RunEntry) -> None:
        self.entry = entry
        self.run = opened(entry.folder)
        log.opened(self.run.digest)

    @property
    def recorded(self) -> Trajectory:
        """The run with its steps; MissingStepsError where only checkpoints are known."""
        if isinstance(self.run, CheckpointRun):
            self.run.refuse("its steps are needed here")
        return self.run

    @property
    def has_steps(self) -> bool:
        """Is more known than checkpoints?"""
        return not isinstance(self.run, CheckpointRun)

    @property
    def what(self) -> str:
        """What kind of run this is, in words."""
        return "A recorded training" if self.has_steps else "A training of which only checkpoints are known"

    @property
    def problem(self) -> Problem:
        return problem_of(self.run)

    @property
    def evaluation(self) -> Evaluation:
        evaluation = self.run.evaluation
        if evaluation is None:
            raise RequestError(
                "this run was recorded without an evaluation set, so there is nothing to judge its stages by; record "
                "it again with Recorder(..., evaluation=Evaluation(x, y))"
            )
        return evaluation

    def key(self, what: Any) -> Any:
        """Under which the memo keeps an answer about this run."""
        return self.run.digest, what

    def remember(self, what: Any, work: Callable[[], Any]) -> Any:
        """An answer that is computed once and takes no engine."""
        return memo().recall(self.key(what), work)

    def ask(self, what: Any, work: Callable[[], Any]) -> Any:
        """An answer of the engine that is computed once."""
        return compute(self.key(what), work)

    # ---- the run -----------------------------------------------------------------------------------------------------

    def class_names(self, classes: int = 0) -> list[str]:
        """The name of each class, as recorded or as the registered problem has it, else its number; of so many at
        least."""
        known = self.evaluation.class_names or (self._registered.class_names if self._registered else ())
        return [*known, *map(str, range(len(known), max(classes, self._classes)))]

    @property
    def _classes(self) -> int:
        """How many classes the evaluation set has, by what was recorded of it."""
        return max(len(self.evaluation.class_names or ()), int(self.evaluation.y.max()) + 1)

    @property
    def _registered(self) -> Problem | None:
        """The problem, for its words; None where none is registered under the name that the run asks for."""
        with suppress(ProblemError):
            return self.problem
        return None

    def facts(self) -> Facts:
        """What a selection of this run can refer to."""
        run = self.run
        about = Facts(0, 0, tuple(s.name for s in run.stages), steps=run.steps, hypers=self._hypers())
        if run.evaluation is None:
            return about
        return replace(
            about,
            examples=len(self.evaluation),
            classes=self._classes,
            columns=self.remember("columns", lambda: filter_columns(self.metadata())),
            confounders=self.remember("confounders", lambda: confounders(self.evaluation)),
            slices=slices.saved(self.evaluation_digest),
            trained_on=self.remember("trained on", self._trained_on),
        )

    def _hypers(self) -> tuple[str, ...]:
        """What a stage can be trained with otherwise; nothing where it cannot be trained again."""
        if isinstance(self.run, CheckpointRun):
            return ()
        return tuple(name for name in CHANGEABLE if self.run.steps and name in self.run.record(0).hyper[0])

    def _trained_on(self) -> int:
        if isinstance(self.run, CheckpointRun):
            return 0
        rows = [self.run.record(k).rows for k in range(self.run.steps)]
        return 1 + max((int(r.max()) for r in rows if len(r)), default=-1)

    @property
    def evaluation_digest(self) -> str:
        """Pins the evaluation set: runs that share it can be compared example by example."""
        return evaluation_digest(self.run)

    def stage_notes(self) -> pd.DataFrame:
        """One row a stage: stage, note, steps, optimizer; where its steps are known, also examples (distinct), uses."""
        return self.remember("stages", self._stage_notes)

    def _stage_notes(self) -> pd.DataFrame:
        run = self.run
        known: list[dict[str, Any]]
        if isinstance(run, CheckpointRun):
            known = [{"optimizer": entry.optimizer} for entry in run.header.stages]
        else:
            told = (stage_section(run, s) for s in run.stages)
            known = [t.model_dump(include={"optimizer", "examples", "uses"}) for t in told]
        notes = [{"stage": s.name, "note": s.note or "–", "steps": len(s)} for s in run.stages]
        return pd.DataFrame([note | more for note, more in zip(notes, known, strict=True)])

    def summary(self) -> list[tuple[str, str]]:
        """The run in figures, as (label, value)."""
        run, known = self.run, memo().get(self.key("integrity"))
        parameters = sum(math.prod(t.shape) for t in run.header.parameters)
        state = "files match their digests" if known == ((),) else "does not match its digests"
        return [
            ("Steps", f"{run.steps:,}"),
            ("Stages", str(len(run.stages))),
            ("Optimizer", run.optimizer),
            ("Trained parameters", f"{parameters:,}"),
            ("Checkpoints", str(len(run.checkpoints))),
            ("Integrity", "being checked" if known is None else state if run.sealed else f"{state}, not sealed"),
            *([] if run.evaluation is None else [("Evaluation set", f"{len(self.evaluation):,} examples")]),
        ]

    @property
    def sequences(self) -> bool:
        """Are the targets sequences? Then labels and predictions are those of their last places."""
        return self.evaluation.y.dim() > 1

    def accuracy(self, rows: np.ndarray | None = None) -> str:
        """Share of these examples (of sequences: of all their places that count) that the final model gets right."""
        table = self.predictions() if rows is None else self.predictions().iloc[rows]
        right, places = table["right"].sum(), int(table["places"].sum())
        share = glossary.fmt_percent(right / places if places else None)
        return f"{share} of {places:,} places" if self.sequences else share

    def integrity(self, progress: Progress) -> tuple[str, ...]:
        """What is wrong with the files, in words; empty if every digest matches. All of them are read again, once."""
        return self.remember("integrity", lambda: (_integrity(self.run, progress),))[0]

    def log(self) -> pd.DataFrame:
        """One row a step."""
        return self.remember("log", self.run.log_frame)

    # ---- the evaluation set ------------------------------------------------------------------------------------------

    def predictions(self) -> pd.DataFrame:
        """One row an evaluation example: label, prediction, confidence, correct (of a sequence, of its last place);
        right of places: how many of the places that count the model gets right."""
        return self.ask("predictions", self._predictions)

    def _predictions(self) -> pd.DataFrame:
        evaluation, problem = self.evaluation, self.problem
        model = final_model(self.run, problem)
        gamma = run_performance(self.run, "log-likelihood")
        parts, right = [], []
        with working("Running the model over the evaluation set", "example") as progress, torch.no_grad():
            for x, y in gamma.chunks(problem.device, PARTS):
                outputs = problem.outputs(model.params, dict(model.buffers), x)
                parts.append(_last(outputs, 2).double().softmax(1).cpu())
                right.append(((outputs.argmax(-1) == y) & (y != IGNORE)).reshape(len(y), -1).sum(1).cpu())
                progress(sum(map(len, right)), len(evaluation))
        confidence, prediction = torch.cat(parts).max(1)
        y = evaluation.y.long().cpu()
        labels, names = _last(y, 1), self.class_names(parts[0].shape[1])
        frame = pd.DataFrame({"example": range(len(labels)), "label": labels.numpy(), "prediction": prediction.numpy()})
        return frame.assign(
            label_name=[_named(names, label) for label in labels.tolist()],
            prediction_name=[names[i] for i in prediction.tolist()],
            confidence=confidence.numpy(),
            correct=frame["label"] == frame["prediction"],
            right=torch.cat(right).numpy(),
            places=(y != IGNORE).reshape(len(y), -1).sum(1).numpy(),
        )

    def metadata(self) -> pd.DataFrame:
        """The evaluation set's own columns; empty if it has none."""
        metadata = self.evaluation.metadata
        return pd.DataFrame(index=range(len(self.evaluation))) if metadata is None else metadata

    def described(self) -> pd.DataFrame:
        """The metadata, and the examples as text, where only the registered problem has words for them."""
        metadata = self.metadata()
        words = None if "text" in metadata else self.remember("words", lambda: (self._in_words(self.evaluation.x),))[0]
        return metadata if words is None else metadata.assign(text=words)

    def rows(self, selection: Selection) -> np.ndarray:
        """The examples that the charts are about: the hand-picked ones, else all that pass the filters."""
        return np.array(selection.examples) if selection.examples else self.filtered(selection)["example"].to_numpy()

    def filtered(self, s: Selection) -> pd.DataFrame:
        """The predictions that pass the filters."""
        if not s.filtered:
            return self.predictions()
        key = ("filtered", *(getattr(s, name) for name in FILTERS))
        return self.remember(key, lambda: self._passing(s))

    def _passing(self, s: Selection) -> pd.DataFrame:
        found = passing(s, self.predictions(), self.described() if s.text else self.metadata())
        if not s.slice:
            return found
        return found[found["example"].isin(self.members(slices.definition(s.slice)))]

    def members(self, definition: Selection) -> np.ndarray:
        """The examples of a subgroup: the hand-picked ones and, where it has filters, those that pass them."""
        if not definition.filtered:
            return np.array(definition.examples, dtype=int)
        return np.union1d(definition.examples, self.filtered(definition)["example"]).astype(int)

    def shown(self, rows: list[int]) -> list[dict[str, str]]:
        """A picture or words for each of these evaluation examples."""
        if self._display.get("kind") == "text" and "text" in self.metadata():
            return [{"text": str(words)[:MAX_TEXT]} for words in self.metadata()["text"].iloc[rows]]
        return self.remember(("shown", tuple(rows)), lambda: self._looks(self.evaluation.x, rows))

    @property
    def _display(self) -> dict[str, Any]:
        """How the run asks for its inputs to be shown."""
        return (self.run.evaluation.display if self.run.evaluation else None) or {}

    @property
    def has_words(self) -> bool:
        """Does the registered problem put inputs into words?"""
        return self._display.get("kind") != "image" and self._registered is not None and bool(self._registered.as_text)

    def _in_words(self, inputs: Inputs) -> list[str] | None:
        return self.problem.in_words(inputs) if self.has_words else None

    def _looks(self, inputs: Inputs, rows: list[int]) -> list[dict[str, str]]:
        words = self._in_words(map_inputs(lambda t: t[rows], inputs))
        return shown(inputs, rows, self._display) if words is None else [{"text": text[:MAX_TEXT]} for text in words]

    # ---- the training set --------------------------------------------------------------------------------------------

    def batch(self, step: int) -> pd.DataFrame:
        """The training examples of a step, as often as it used them: row in the run's table, id, label."""
        return self.remember(("batch", step), lambda: self._batch(step))

    def _batch(self, step: int) -> pd.DataFrame:
        rows = self.run.record(step).rows
        if not len(rows):
            return pd.DataFrame(columns=["row", "id", "label"])
        names, ids = self.class_names(), self.run.example_ids(rows)
        known = [_named(names, y) for y in self.run.examples(rows).targets.tolist()]
        return pd.DataFrame({"row": rows.tolist(), "id": ids or rows.tolist(), "label": known})

    def training_shown(self, rows: tuple[int, ...]) -> list[dict[str, str]]:
        """A picture or words for each of these training examples."""
        return self.remember(("training", rows), lambda: self._training_shown(rows))

    def _training_shown(self, rows: tuple[int, ...]) -> list[dict[str, str]]:
        return self._looks(self.run.examples(torch.tensor(rows)).inputs, list(range(len(rows))))


def _last(values: torch.Tensor, dims: int) -> torch.Tensor:
    """The last place of sequences [n, places, ...], where there are more than so many dimensions; else as it is."""
    return values[:, -1] if values.dim() > dims else values


def _named(names: list[str], label: Any) -> str:
    """A class by its name; of a sequence the end, one after the other."""
    if isinstance(label, list):
        letters = all(len(name) == 1 for name in names) and names[:1] != ["0"]
        told = ("" if letters else " ").join(_named(names, place) for place in label if place != IGNORE)
        return told if len(told) <= MAX_LABEL else f"…{told[-MAX_LABEL:]}"
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else str(label)


def _integrity(run: AnyRun, progress: Progress) -> tuple[str, ...]:
    return check_checkpoints(run, progress) if isinstance(run, CheckpointRun) else check_integrity(run, progress)
