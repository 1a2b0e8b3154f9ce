"""Several trainings of one run in two threads, each with a model of its own: where torch leaves a processor free."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import wait
from threading import Event, Lock
from typing import NamedTuple

from aa_core.counterfactuals.intervention import Intervention
from aa_core.propagator import Training
from aa_core.records import RunLike
from aa_core.replay import Progress, prepare
from aa_core.state import Snapshot
from aa_core.threads import beside

TURN = 8
"""Steps that a thread takes of one training before it looks for the one that has most left."""
PAUSE = 0.2
"""Seconds between two calls of the progress while only the other thread works."""
Pair = tuple[Training, Training]
"""The same training twice, with a copy of the model each: one may not be called in two threads at once."""


class Lane(NamedTuple):
    """One training: the state that it starts from, and how it differs from the recorded one, if it does."""

    at: Snapshot
    intervention: Intervention | None = None

    def at_step(self, step: int) -> Intervention | None:
        """What to do instead of the recorded step; None where it is taken as recorded."""
        return self.intervention if self.intervention is not None and step in self.intervention.steps else None

    def step(self, run: RunLike, training: Training, at: Snapshot) -> Snapshot:
        """The next step of this training."""
        if (change := self.at_step(at.step)) is not None:
            return change.step(training, at)
        return training.step(at, run.step_input(at.step, training.problem.device))


def pair_of(run: RunLike, training: Training, start: int) -> Pair | None:
    """What two threads need from this step on. None where the loss is an object that cannot be copied, or where the
    model draws random numbers: threads share their generator."""
    records = map(run.record, range(start, run.steps))
    if any(batch.rng is not None for record in records for batch in (*record.micro_batches, *record.passed)):
        return None
    try:
        twin = training.problem.twin()
    except (TypeError, RuntimeError, copy.Error):
        return None
    return training, prepare(run, twin)


def train_abreast(run: RunLike, pair: Pair, lanes: Sequence[Lane], progress: Progress) -> list[Snapshot]:
    """Each lane trained to the end, in the order given, to the bit as by itself.

    Each thread takes the one with most steps left that the other has not, so both end at about the same time. Progress
    counts steps of lanes; if it raises, the other thread ends after its step.
    """
    ends, idle = [lane.at for lane in lanes], set(range(len(lanes)))
    choice, ended, taken = Lock(), Event(), [0, 0]
    total = sum(run.steps - lane.at.step for lane in lanes)

    def next_lane() -> int | None:
        with choice:
            left = {i: run.steps - ends[i].step for i in idle if ends[i].step < run.steps}
            if not left:
                return None
            idle.remove(lane := max(left, key=left.__getitem__))
            return lane

    def train(thread: int) -> None:
        try:
            while (i := next_lane()) is not None:
                for _ in range(min(TURN, run.steps - ends[i].step)):
                    if ended.is_set():
                        return
                    ends[i] = lanes[i].step(run, pair[thread], ends[i])
                    taken[thread] += 1
                    if thread == 0:
                        progress(sum(taken), total)
                with choice:
                    idle.add(i)
        except BaseException:
            ended.set()
            raise

    with beside() as pool:
        other = pool.submit(train, 1)
        train(0)
        try:
            while not wait([other], PAUSE).done:
                progress(sum(taken), total)
        finally:
            ended.set()
        other.result()
    progress(total, total)
    return ends
