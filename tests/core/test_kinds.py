"""Every kind of model: recorded, replayed to the bit, differentiated, and compared with real retraining in torch."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import aa_core as aa
from aa_core import curvature
from aa_core.effects import adjoint, embedding
from aa_core.effects.statistics import UNCHANGED
from aa_core.errors import ProblemError, UnsupportedError
from aa_core.running_statistics import Moving
from aa_core.runs.trajectory import Trajectory
from tests import kinds, zoo
from tests.core.cases import assert_close, memory_cache
from tests.kinds import KINDS, STEPS, Kind

STEPS_OF = {"a": (0, 1, 2, 3), "b": (4, 5), "c": (6, 7)}
every_kind = pytest.mark.parametrize("name", KINDS)


@functools.cache
def recorded(name: str) -> tuple[Kind, Trajectory, aa.Problem]:
    """Recorded once per session."""
    folder = Path(tempfile.mkdtemp(prefix="kinds-"))
    return KINDS[name], KINDS[name].record(folder / "run"), KINDS[name].problem()


@every_kind
def test_the_replay_is_the_recording_to_the_bit(name: str) -> None:
    _, run, problem = recorded(name)
    drifts = aa.replay_drift(run, problem)
    assert len(drifts) == STEPS // 2 and all(d.absolute == 0.0 for d in drifts)


@every_kind
def test_recording_leaves_training_as_it_is(name: str) -> None:
    kind, run, _ = recorded(name)
    alone, at_the_end = dict(kind.trained({}).named_parameters()), run.load(STEPS)
    for n, tensor in {**at_the_end.state.params, **at_the_end.buffers}.items():
        assert n not in alone or torch.equal(alone[n], tensor)


@every_kind
def test_step_effects_are_the_derivative_of_the_whole_remaining_training(name: str) -> None:
    """By central differences in the treatment of each step, in torch alone."""
    kind, run, problem = recorded(name)
    found = aa.step_effects(run, problem, kind.gamma()).effects
    h = 1e-5
    expected = [(kind.judged({k: 1 + h}) - kind.judged({k: 1 - h})) / (2 * h) for k in range(STEPS)]
    assert_close(found, torch.stack(expected), rtol=1e-6)


@pytest.fixture
def held_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Effects without what running statistics add: of stages it is a difference, of steps a derivative."""
    monkeypatch.setattr(embedding, "statistics_changes", lambda run, training, shifts: [UNCHANGED] * len(shifts))
    monkeypatch.setattr(adjoint, "moving", lambda run, training: Moving((), ()))


@pytest.mark.usefixtures("held_statistics")
@every_kind
def test_tangent_and_adjoint_agree(name: str) -> None:
    kind, run, problem = recorded(name)
    pulled = aa.step_effects(run, problem, kind.gamma()).effects
    pushed = aa.stage_effects(run, problem, kind.gamma(), method="additive", cache=memory_cache()).effects
    assert_close(torch.stack([pulled[list(steps)].sum(0) for steps in STEPS_OF.values()]), pushed, rtol=1e-8)


@every_kind
def test_retraining_without_a_stage_is_torchs_own_to_the_bit(name: str) -> None:
    kind, run, problem = recorded(name)
    for stage, steps in STEPS_OF.items():
        model = dict(kind.trained(dict.fromkeys(steps, 0.0)).named_parameters())
        params = aa.retrain(run, problem, aa.Counterfactual.skip(stage)).params
        assert params and all(torch.equal(model[n], p) for n, p in params.items())


@pytest.mark.usefixtures("held_statistics")
@every_kind
def test_stage_effects_are_those_of_really_retraining(name: str) -> None:
    """Of the last stage exactly, whatever it did; of the one before it to first order."""
    kind, run, problem = recorded(name)
    held = run.load(STEPS).buffers
    as_recorded = kind.judged({}, held)
    truth = [as_recorded - kind.judged(dict.fromkeys(STEPS_OF[stage], 0.0), held) for stage in "bc"]
    found = aa.stage_effects(run, problem, kind.gamma(), readout="displaced", cache=memory_cache()).effects
    assert_close(found[2], truth[1], rtol=1e-9)
    assert_close(found[1], truth[0], rtol=0.2)


# ---- what cannot be differentiated twice ---------------------------------------------------------------------------


def test_fused_attention_is_replaced_where_it_has_no_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, run, _ = recorded("transformer")
    monkeypatch.setattr(curvature, "twice_differentiable_kernels", nullcontext)
    with pytest.raises(UnsupportedError, match="_scaled_dot_product_flash_attention_for_cpu_backward"):
        aa.step_effects(run, kind.problem(), kind.gamma())


class Bag(nn.Module):
    """Pooled by the one operator that looks words up and adds them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.EmbeddingBag(kinds.WORDS, 5, mode="mean"), nn.Linear(5, zoo.CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.embed(words))


def test_an_operator_without_a_second_derivative_is_refused_by_its_name(tmp_path: Path) -> None:
    kind = Kind(Bag, kinds.texts)
    run = kind.record(tmp_path / "run")
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, kind.problem()))
    with pytest.raises(UnsupportedError, match="_embedding_bag_backward"):
        aa.step_effects(run, kind.problem(), kind.gamma())


# ---- names, groups, outputs ----------------------------------------------------------------------------------------


def test_tied_weights_are_one_parameter() -> None:
    kind, run, _ = recorded("gpt2")
    params = run.load(0).state.params
    assert "transformer.wte.weight" in params and "lm_head.weight" not in params
    untied = kind.start()
    untied.lm_head.weight = nn.Parameter(untied.lm_head.weight.detach().clone())
    with pytest.raises(ProblemError, match=r"lm_head\.weight: in the model, not in the run"):
        aa.stage_effects(run, aa.Problem(untied, kinds.cross_entropy), kind.gamma())


def test_only_adapters_are_trained_and_the_rest_is_carried() -> None:
    run = recorded("gpt2 with LoRA")[1]
    at = run.load(0)
    assert at.state.params and all("lora_" in n for n in at.state.params)
    assert not any("lora_" in n for n in at.buffers) and any("wte" in n for n in at.buffers)


def test_clipping_is_replayed_to_the_bit_whatever_the_order_of_the_optimizers_groups(tmp_path: Path) -> None:
    """As clip_grad_norm_(model.parameters()) sums; in float32, where the order is seen."""
    torch.manual_seed(0)
    model = kinds.Transformer()
    groups = [{"params": [p]} for p in reversed(list(model.parameters()))]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    settings = {"checkpoint_every": 1, "clip_norm": 0.1}
    with (
        aa.Recorder(tmp_path / "run", model, optimizer, kinds.cross_entropy, **settings) as recorder,
        recorder.stage("a"),
    ):
        for k in range(20):
            recorder.batch(*kinds.texts(7, k))
            kinds.backward(model, optimizer, *kinds.texts(7, k))
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    drifts = aa.replay_drift(aa.open_run(tmp_path / "run"), aa.Problem(model, kinds.cross_entropy, device="cpu"))
    assert len(drifts) == 20 and all(d.absolute == 0.0 for d in drifts)


class Structured(nn.Module):
    """Answers as models of large libraries do: the logits are one of several outputs."""

    def __init__(self, answer: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.body, self.answer = zoo.mlp(), answer

    def forward(self, x: Tensor) -> object:
        return self.answer(self.body(x))


def attributes(logits: Tensor) -> object:
    return SimpleNamespace(loss=None, logits=logits)


def entries(logits: Tensor) -> object:
    return {"logits": logits, "hidden_states": ()}


@pytest.mark.parametrize("answer", [attributes, entries])
def test_the_logits_of_a_structured_output_are_what_the_loss_gets(answer: Any, tmp_path: Path) -> None:
    plain, structured = Kind(zoo.mlp, zoo.examples), Kind(lambda: Structured(answer), zoo.examples)
    expected = aa.step_effects(plain.record(tmp_path / "a"), plain.problem(), plain.gamma())
    run = structured.record(tmp_path / "b")
    found = aa.step_effects(run, structured.problem(), structured.gamma())
    assert torch.equal(found.effects, expected.effects) and run.record(0).loss > 0


def test_other_outputs_are_refused_while_recording(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="returned tuple, expected a tensor"):
        Kind(lambda: Structured(lambda logits: (logits, None)), zoo.examples).record(tmp_path / "run")
