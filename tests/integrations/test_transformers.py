"""A real transformers.Trainer, recorded by its callback: replayed to the bit, differentiated, refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import aa_core as aa
from aa_core.errors import EmptyStageError, MissingDataError, MissingExtraError, RecordingError, UnsupportedError
from aa_core.integrations.transformers import (
    IGNORE,
    TrainerLoss,
    TrainerRecorder,
    problem,
    reference,
    trainer_loss,
)
from aa_core.records import Clip
from aa_core.runs.trajectory import Trajectory
from tests.core.cases import memory_cache

transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")

WORDS, TOKENS = 17, 8
SIZES = {"vocab_size": WORDS, "n_positions": TOKENS, "n_embd": 8, "n_layer": 1, "n_head": 2}
Rows = list[dict[str, Any]]


def gpt2(dropout: float = 0.1) -> Any:
    torch.manual_seed(0)
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, **drop, bos_token_id=0, eos_token_id=0))


def classifier(kind: type | None = None) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(**SIZES, num_labels=3, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    return (kind or transformers.GPT2ForSequenceClassification)(config)


def passages(n: int = 10, seed: int = 1) -> Rows:
    """Passages of unequal length, padded; padding is not judged."""
    generator, rows = torch.Generator().manual_seed(seed), []
    for i in range(n):
        words = torch.randint(1, WORDS, (TOKENS,), generator=generator)
        length = 3 + i % (TOKENS - 2)
        inside = torch.arange(TOKENS) < length
        rows.append(
            {
                "input_ids": words.where(inside, 0),
                "attention_mask": inside.long(),
                "labels": words.where(inside, IGNORE),
                "id": 100 + i,
            }
        )
    return rows


def judged(rows: Rows) -> Rows:
    return [{**row, "labels": i % 3} for i, row in enumerate(rows)]


def trainer(model: nn.Module, rows: Rows, recorder: TrainerRecorder | None, folder: Path, **arguments: Any) -> Any:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "num_train_epochs": 2,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "optim": "adamw_torch",
        "remove_unused_columns": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    arguments = transformers.TrainingArguments(str(folder / "out"), **{**settings, **arguments})
    callbacks = [recorder.callback] if recorder else []
    return transformers.Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=callbacks)


def record(path: Path, model: nn.Module, rows: Rows, *, loss_fn: Any = None, **arguments: Any) -> Trajectory:
    """Two stages: one epoch each."""
    with (
        TrainerRecorder(path / "run", loss_fn=loss_fn, ids="id", checkpoint_every=1) as recorder,
        recorder.stage(lambda state: f"epoch {int(state.epoch) + 1}"),
    ):
        trainer(model, rows, recorder, path, **arguments).train()
    return aa.open_run(path / "run")


def assert_replays(run: Trajectory, problem: aa.Problem) -> None:
    drifts = aa.replay_drift(run, problem)
    assert len(drifts) == run.steps > 0 and all(d.absolute == 0.0 for d in drifts)


def without_ids(rows: Rows) -> Rows:
    return [{n: v for n, v in row.items() if n != "id"} for row in rows]


# ---- what is recorded ----------------------------------------------------------------------------------------------


def test_accumulation_clipping_schedule_dropout_and_padding_are_replayed_to_the_bit(tmp_path: Path) -> None:
    model = gpt2()
    run = record(tmp_path, model, passages())
    assert_replays(run, problem(model))
    assert [(s.name, s.blocks) for s in run.stages] == [("epoch 1", ((0, 2),)), ("epoch 2", ((2, 4),))]
    assert [len(run.record(k).micro_batches) for k in range(4)] == [3, 2, 3, 2]
    assert [run.record(k).hyper[0]["lr"] for k in range(4)] == pytest.approx([0.0, 0.005, 0.01, 0.005])
    assert all(m.rng is not None for k in range(4) for m in run.record(k).micro_batches)
    assert sorted(run.example_ids(torch.arange(10)) or ()) == list(range(100, 110))


def test_bf16_is_replayed_to_the_bit_by_a_model_that_knows_nothing_of_it(tmp_path: Path) -> None:
    model = gpt2()
    run = record(tmp_path, model, passages(), bf16=True)
    assert run.record(0).precision.autocast == "bfloat16"
    assert_replays(run, problem(gpt2()))
    task = problem(model)
    assert_replays(run, task)
    outputs = task.outputs(run.load(0).state.params, {}, {"input_ids": passages(2)[0]["input_ids"][None]})
    assert torch.equal(outputs, gpt2().eval()(passages(2)[0]["input_ids"][None]).logits)  # and is asked in float32


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_the_precision_recorded_is_the_one_that_is_used(first: bool, second: bool, tmp_path: Path) -> None:
    """A model keeps that of its first Trainer, whatever the next one is told."""
    model, alone = gpt2(), gpt2()
    with TrainerRecorder(tmp_path / "run", ids="id", checkpoint_every=1) as recorder:
        for bf16 in (first, second):
            with recorder.stage(f"told bf16={bf16}"):
                trainer(model, passages(), recorder, tmp_path, bf16=bf16).train()
            trainer(alone, without_ids(passages()), None, tmp_path, bf16=bf16).train()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), alone.parameters(), strict=True))
    assert_replays(aa.open_run(tmp_path / "run"), problem(gpt2()))


def test_the_recorded_loss_is_the_trainers(tmp_path: Path) -> None:
    model, losses = gpt2(), []
    with TrainerRecorder(tmp_path / "run", ids="id") as recorder, recorder.stage("a"):
        training = trainer(model, passages(), recorder, tmp_path, logging_steps=1)
        training.train()
        losses = [entry["loss"] for entry in training.state.log_history if "loss" in entry]
    run = aa.open_run(tmp_path / "run")
    assert [run.record(k).loss for k in range(run.steps)] == pytest.approx(losses, rel=1e-6)


def test_training_is_not_disturbed(tmp_path: Path) -> None:
    watched, alone = gpt2(), gpt2()
    record(tmp_path, watched, passages(), eval_strategy="epoch")
    trainer(alone, without_ids(passages()), None, tmp_path, eval_strategy="epoch").train()
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), alone.parameters(), strict=True))
    assert not watched._forward_pre_hooks and not watched._forward_hooks


def test_a_second_train_goes_on_in_the_same_run(tmp_path: Path) -> None:
    model = gpt2()
    with TrainerRecorder(tmp_path / "run", ids="id", checkpoint_every=1) as recorder:
        training = trainer(model, passages(), recorder, tmp_path, num_train_epochs=1)
        for name in ("first", "second", "first"):
            with recorder.stage(name):
                training.train()
        with recorder.stage("twice"):
            training.train()
            training.train()
    run = aa.open_run(tmp_path / "run")
    stages = {"first": ((0, 2), (4, 6)), "second": ((2, 4),), "twice": ((6, 10),)}
    assert {s.name: s.blocks for s in run.stages} == stages
    assert_replays(run, problem(model))


def test_a_data_set_can_be_named_instead_of_stored(tmp_path: Path) -> None:
    model, rows = gpt2(), [{**row, "id": i} for i, row in enumerate(passages())]
    named = reference("passages", rows, model, ids="id")
    with TrainerRecorder(tmp_path / "run", ids="id", dataset=named) as recorder, recorder.stage("a"):
        trainer(model, rows, recorder, tmp_path).train()
    run = aa.open_run(tmp_path / "run", datasets={"passages": named.dataset})
    assert all(d.absolute == 0.0 for d in aa.replay_drift(run, problem(model)))
    with pytest.raises(MissingDataError):
        aa.replay_drift(aa.open_run(tmp_path / "run"), problem(model))


# ---- what it is good for -------------------------------------------------------------------------------------------


def assert_derivatives(run: Trajectory, task: aa.Problem, stages: tuple[str, ...]) -> None:
    """Additive effects on held-out passages are what really scaling a stage a little does, in float32."""
    held_out = passages(4, seed=7)
    inputs = {n: torch.stack([row[n] for row in held_out]) for n in ("input_ids", "attention_mask")}
    targets = task.loss_fn.targets(torch.stack([row["labels"] for row in held_out]))
    gamma = aa.sequence_log_likelihood(inputs, targets).mean()
    found = aa.stage_effects(run, task, gamma, method="additive", cache=memory_cache()).effects[:, 0]
    as_recorded = aa.final_model(run, task).performance(gamma)
    for stage, effect in zip(stages, found, strict=True):
        nearly = aa.retrain(run, task, aa.Counterfactual((stage,), scale=1 - 1e-2)).performance(gamma)
        assert float(as_recorded - nearly) / 1e-2 == pytest.approx(float(effect), rel=0.03, abs=1e-3)
        assert abs(float(effect)) > 0.01


def test_effects_on_held_out_passages_are_the_derivative_of_real_training(tmp_path: Path) -> None:
    model = gpt2()
    assert_derivatives(record(tmp_path, model, passages()), problem(model), ("epoch 1", "epoch 2"))


def test_targets_are_the_next_tokens() -> None:
    loss = trainer_loss(gpt2())
    assert loss.targets(torch.tensor([[1, 2, IGNORE]])).tolist() == [[2, IGNORE, IGNORE]]
    assert (loss.shifted, loss.reduction) == (True, "sum")
    rows = passages(3)
    logits, labels = torch.randn(3, TOKENS, WORDS), torch.stack([row["labels"] for row in rows])
    mean = gpt2().loss_function(logits, labels, vocab_size=WORDS)
    assert float(TrainerLoss(True, "mean")(logits, loss.targets(labels))) == float(mean)


# ---- models --------------------------------------------------------------------------------------------------------


def lora(peft: Any) -> Any:
    settings = {"task_type": "CAUSAL_LM", "target_modules": ["c_attn"], "fan_in_fan_out": True}
    return peft.LoraConfig(r=2, lora_dropout=0.1, **settings)


def test_only_the_adapters_of_a_LoRA_model_are_trained(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft")
    model = peft.get_peft_model(gpt2(), lora(peft))
    run = record(tmp_path, model, passages())
    assert_replays(run, problem(model))
    assert all("lora_" in n for n in run.load(0).state.params)


def masked() -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=WORDS, max_position_embeddings=TOKENS, **sizes)
    )


def test_two_fine_tunings_and_adapters_each_with_an_optimizer_of_its_own(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft")
    model = gpt2()
    with TrainerRecorder(tmp_path / "run", ids="id", checkpoint_every=1) as recorder:
        for name, seed in (("news", 1), ("stories", 2)):
            with recorder.stage(name):
                trainer(model, passages(seed=seed), recorder, tmp_path).train()
        adapted = peft.get_peft_model(model, lora(peft))
        with recorder.stage("adapters"):
            trainer(adapted, passages(seed=3), recorder, tmp_path, learning_rate=0.1).train()
    run = aa.open_run(tmp_path / "run")
    task = problem(adapted, previous=problem(gpt2()))
    assert_replays(run, task)
    assert [(s.name, s.blocks) for s in run.stages] == [
        ("news", ((0, 4),)),
        ("stories", ((4, 8),)),
        ("adapters", ((8, 12),)),
    ]
    assert_derivatives(run, task, ("news", "stories", "adapters"))


class Plain(nn.Module):
    """A model of one's own: no configuration, no name for its loss, and it is not handed any number of labels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(WORDS, 5), nn.Linear(5, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        h = (self.embed(input_ids) * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        logits = self.out(h)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Several(nn.Module):
    """Any number of labels an example, which the library calls multi_label_classification."""

    def __init__(self) -> None:
        super().__init__()
        self.body = classifier()
        self.config = self.body.config

    def forward(self, labels: Tensor | None = None, **inputs: Any) -> dict[str, Tensor]:
        logits = self.body(**{n: v for n, v in inputs.items() if n != "num_items_in_batch"}).logits
        return {"logits": logits} if labels is None else {"loss": several(logits, labels), "logits": logits}


def several(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels)


def many(rows: Rows) -> Rows:
    return [{**row, "labels": [float(i % 2), 1.0, float(i % 3 == 0)]} for i, row in enumerate(rows)]


OTHERS: dict[str, tuple[Callable[[], nn.Module], Callable[[Rows], Rows], Any]] = {
    "masked words": (masked, lambda rows: rows, None),
    "one label a text": (classifier, judged, None),
    "one label a word": (
        lambda: classifier(transformers.GPT2ForTokenClassification),
        lambda rows: [
            {**row, "labels": row["labels"].where(row["labels"] == IGNORE, row["labels"] % 3)} for row in rows
        ],
        None,
    ),
    "a model of one's own": (Plain, judged, F.cross_entropy),
    "several labels a text": (Several, many, several),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_are_replayed_to_the_bit_however_their_loss_is_scaled(name: str, tmp_path: Path) -> None:
    build, label, loss_fn = OTHERS[name]
    torch.manual_seed(0)
    model = build()
    run = record(tmp_path, model, label(passages()), loss_fn=loss_fn)
    assert_replays(run, aa.Problem(model, loss_fn or trainer_loss(model)))


# ---- what is refused -----------------------------------------------------------------------------------------------

REFUSED = {
    "label_smoothing_factor=0.1": {"label_smoothing_factor": 0.1},
    "neftune_noise_alpha=5": {"neftune_noise_alpha": 5},
    "optim='adamw_torch'": {"optim": "adamw_torch_fused"},
    "Adafactor is not supported": {"optim": "adafactor"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_repeated_is_refused_by_its_name(message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        record(tmp_path, gpt2(), passages(), **REFUSED[message])


def test_a_loss_that_is_not_known_must_be_given() -> None:
    with pytest.raises(UnsupportedError, match="Plain computes its loss by code of its own"):
        trainer_loss(Plain())


def test_a_loss_that_the_model_does_not_compute_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="relative difference"):
        record(tmp_path, gpt2(), passages(), loss_fn=lambda logits, labels: logits.square().mean())


def test_a_trainer_that_computes_the_loss_itself_is_refused(tmp_path: Path) -> None:
    with TrainerRecorder(tmp_path / "run") as recorder, pytest.raises(RecordingError, match="without labels"):
        training = trainer(gpt2(), without_ids(passages()), recorder, tmp_path)
        training.compute_loss_func = lambda outputs, labels, **_: outputs.logits.square().mean()
        with recorder.stage("a"):
            training.train()


def test_ids_that_do_not_reach_the_model_are_missed(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="without id"):
        record(tmp_path, gpt2(), passages(), remove_unused_columns=True)


def test_every_stage_may_be_clipped_in_its_own_way(tmp_path: Path) -> None:
    with TrainerRecorder(tmp_path / "run", ids="id") as recorder:
        training = trainer(gpt2(), passages(), recorder, tmp_path)
        for name, limit in (("a", 1.0), ("b", 0.1), ("c", 0.0)):
            training.args.max_grad_norm = limit
            with recorder.stage(name):
                training.train()
    run = aa.open_run(tmp_path / "run")
    assert [run.record(s.start).clip for s in run.stages] == [Clip("norm", 1.0), Clip("norm", 0.1), None]


def test_training_outside_a_stage_or_without_the_callback_is_noticed(tmp_path: Path) -> None:
    model = gpt2()
    with TrainerRecorder(tmp_path / "run", ids="id") as recorder:
        training = trainer(model, passages(), recorder, tmp_path)
        with pytest.raises(RecordingError, match="outside a stage"):
            training.train()
        with recorder.stage("a", note="noted"):
            training.train()
        with pytest.raises(RecordingError, match="outside a stage"):
            training.train()
        assert recorder._announce not in model._forward_pre_hooks.values()
        with pytest.raises(EmptyStageError, match="callback"), recorder.stage("b"):
            trainer(gpt2(), without_ids(passages()), None, tmp_path).train()
    assert [(s.name, s.note) for s in aa.open_run(tmp_path / "run").stages] == [("a", "noted")]


def test_an_exception_leaves_a_readable_unsealed_run(tmp_path: Path) -> None:
    class Interrupting(transformers.TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                raise KeyboardInterrupt

    model = gpt2()
    with (
        pytest.raises(KeyboardInterrupt),
        TrainerRecorder(tmp_path / "run", ids="id") as recorder,
        recorder.stage("a"),
    ):
        training = trainer(model, passages(), recorder, tmp_path)
        training.add_callback(Interrupting())
        training.train()
    run = aa.open_run(tmp_path / "run")
    assert (run.steps, run.sealed) == (2, False) and not model._forward_pre_hooks


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"accountability-audit\[transformers\]"):
        _ = TrainerRecorder(tmp_path / "run").callback
