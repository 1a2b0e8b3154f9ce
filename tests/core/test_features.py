"""Dropout, clipping, batch norm: recorded, replayed to the bit, differentiated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core.effects.cache import EmbeddingCache
from aa_core.errors import RecordingError, UnsupportedError
from aa_core.records import Clip
from aa_core.replay import prepare
from aa_core.runs.trajectory import Trajectory
from aa_core.state import as_rays, leaves, map_state, pair, unflatten
from tests import zoo

Train = Callable[[Path], tuple[Trajectory, nn.Module]]


def plain() -> nn.Module:
    return zoo.mlp().double()


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(zoo.FEATURES, 9), nn.GELU(), nn.Dropout(0.4), nn.Linear(9, zoo.CLASSES)).double()


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(zoo.FEATURES, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, zoo.CLASSES)).double()


def train(
    path: Path,
    make: Callable[[], nn.Module],
    *,
    clip_norm: float | None = None,
    clip_value: float | None = None,
    obey: bool = True,
    micro_batches: int = 1,
    second: dict[str, float] | None = None,
) -> tuple[Trajectory, nn.Module]:
    """Two stages; `second` is the clipping of the second one, where it is another."""
    torch.manual_seed(3)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.8)
    announced = {"clip_norm": clip_norm, "clip_value": clip_value}
    with aa.Recorder(path, model, optimizer, zoo.cross_entropy, checkpoint_every=5, **announced) as recorder:
        for name in ("a", "b"):
            other = second or {} if name == "b" else {}
            norm, value = (other or announced).get("clip_norm"), (other or announced).get("clip_value")
            with recorder.stage(name, **other):
                for k in range(6):
                    optimizer.zero_grad()
                    for j in range(micro_batches):
                        x, y = zoo.examples(8 + j, seed=10 * k + j)
                        recorder.batch(x, y, weight=1 / (j + 1))
                        (zoo.cross_entropy(model(x), y) * (1 / (j + 1))).backward()
                    if norm and obey:
                        nn.utils.clip_grad_norm_(model.parameters(), norm)
                    if value and obey:
                        nn.utils.clip_grad_value_(model.parameters(), value)
                    optimizer.step()
    return aa.open_run(path), model


CASES = {
    "dropout": functools.partial(train, make=dropout),
    "dropout, three micro-batches": functools.partial(train, make=dropout, micro_batches=3),
    "clipped by norm": functools.partial(train, make=plain, clip_norm=0.2),
    "clipped by value": functools.partial(train, make=plain, clip_value=0.05),
    "clipped otherwise in a stage": functools.partial(train, make=plain, clip_norm=0.2, second={"clip_value": 0.05}),
    "not clipped in a stage": functools.partial(train, make=plain, clip_norm=0.2, second={"clip_norm": torch.inf}),
    "dropout and clipping": functools.partial(train, make=dropout, clip_norm=0.2),
    "batch norm": functools.partial(train, make=normalised),
}


@pytest.fixture(params=CASES)
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Trajectory, nn.Module]:
    return CASES[request.param](tmp_path / "run")


def test_the_replay_is_the_recording_to_the_bit(recorded: tuple[Trajectory, nn.Module]) -> None:
    run, model = recorded
    drifts = aa.replay_drift(run, aa.Problem(model, zoo.cross_entropy))
    assert len(drifts) >= 3 and all(d.absolute == 0.0 for d in drifts)


def test_the_propagator_is_the_finite_difference_of_the_step(recorded: tuple[Trajectory, nn.Module]) -> None:
    run, model = recorded
    training = prepare(run, aa.Problem(model, zoo.cross_entropy))
    at, step = run.load(5), run.step_input(5, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    direction = map_state(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64), at.state)
    direction = direction._replace(count=torch.zeros_like(direction.count))
    _, propagator = training.linearize(at, step, "exact")
    pushed = propagator @ as_rays(direction)

    def moved(size: float) -> list[Tensor]:
        return leaves(
            training.step(at._replace(state=map_state(lambda t, d: t + size * d, at.state, direction)), step).state
        )

    size = 1e-6
    expected = [(a - b) / (2 * size) for a, b in zip(moved(size), moved(-size), strict=True)]
    difference = unflatten([t[None] for t in expected], pushed)
    error = map_state(torch.sub, pushed, difference)
    assert float(pair(error, error)) < 1e-8 * float(pair(difference, difference))
    other = map_state(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64), pushed)
    torch.testing.assert_close(
        pair(other, pushed), pair(propagator.T @ other, as_rays(direction)), rtol=1e-9, atol=1e-12
    )


def test_effects_are_those_of_really_scaling_the_stage_a_little(recorded: tuple[Trajectory, nn.Module]) -> None:
    run, model = recorded
    problem, gamma = aa.Problem(model, zoo.cross_entropy), aa.log_likelihood(*zoo.examples(20, seed=99)).mean()
    if any(True for _ in model.buffers()):
        pytest.skip(
            "stages read running statistics by a difference, not a slope: tests/core/test_running_statistics.py"
        )
    slope = aa.stage_effects(run, problem, gamma, method="additive", cache=EmbeddingCache(None)).effects[:, 0]
    for stage, expected in zip(("a", "b"), slope, strict=True):
        less, more = (
            float(aa.retrain(run, problem, aa.Counterfactual((stage,), scale=1 + h)).performance(gamma))
            for h in (-1e-5, 1e-5)
        )
        assert (more - less) / 2e-5 == pytest.approx(float(expected), rel=1e-3)


def test_only_what_was_drawn_is_stored(tmp_path: Path) -> None:
    steady, _ = train(tmp_path / "plain", plain)
    random, _ = train(tmp_path / "random", dropout, micro_batches=2)
    assert all(m.rng is None for k in range(steady.steps) for m in steady.record(k).micro_batches)
    assert all(m.rng is not None for k in range(random.steps) for m in random.record(k).micro_batches)


def test_the_journal_keeps_random_numbers_and_clipping(tmp_path: Path) -> None:
    run, _ = train(tmp_path / "run", dropout, clip_norm=0.3)
    model, seen = dropout(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with (
        pytest.raises(KeyboardInterrupt),
        aa.Recorder(tmp_path / "live", model, optimizer, zoo.cross_entropy, clip_norm=0.3) as recorder,
        recorder.stage("a"),
    ):
        for k in range(3):
            x, y = zoo.examples(8, seed=k)
            recorder.batch(x, y)
            optimizer.zero_grad()
            zoo.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.3)
            optimizer.step()
        live = aa.open_run(tmp_path / "live")
        seen = [(live.record(k).clip, live.record(k).micro_batches[0].rng) for k in range(live.steps)]
        raise KeyboardInterrupt
    committed = aa.open_run(tmp_path / "live")
    assert len(seen) == 3 and all(clip == Clip("norm", 0.3) == run.record(0).clip for clip, _ in seen)
    for k, (_, rng) in enumerate(seen):
        assert torch.equal(rng, committed.record(k).micro_batches[0].rng)


def test_training_is_not_disturbed_by_the_recorder(tmp_path: Path) -> None:
    _, model = train(tmp_path / "run", dropout)
    torch.manual_seed(3)
    alone = dropout()
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.8)
    for k in 2 * list(range(6)):
        x, y = zoo.examples(8, seed=10 * k)
        optimizer.zero_grad()
        zoo.cross_entropy(alone(x), y).backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize("limit", [{"clip_norm": 0.01}, {"clip_value": 0.001}])
def test_announced_clipping_that_does_not_happen_is_refused(tmp_path: Path, limit: dict[str, float]) -> None:
    with pytest.raises(RecordingError, match="was announced, but the gradient has"):
        train(tmp_path / "run", plain, obey=False, **limit)


def test_two_kinds_of_clipping_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="both given"):
        train(tmp_path / "run", plain, clip_norm=1.0, clip_value=1.0)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_must_be_a_positive_number(tmp_path: Path, limit: float) -> None:
    with pytest.raises(RecordingError, match="positive"):
        train(tmp_path / "run", plain, clip_norm=limit)
