"""One small training of each kind of model that the engine takes, recorded; and the same training in plain torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import aa_core as aa
from aa_core.problem import output_tensor
from aa_core.runs.trajectory import Trajectory
from tests import zoo

STAGES = (("a", 4), ("b", 2), ("c", 2))
STEPS = sum(steps for _, steps in STAGES)
TOKENS, WORDS = 6, 11
Data = Callable[[int, int], tuple[Any, Tensor]]
"""(how many examples, seed) -> (inputs, targets)."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A model of some kind, what it is trained on and by, and how it is judged."""

    model: Callable[[], nn.Module]
    data: Data
    optimizer: Callable[[list[Any]], torch.optim.Optimizer] = zoo.OPTIMIZERS["momentum"]
    judge: Callable[[Any, Tensor], aa.Performance] = aa.log_likelihood

    def start(self) -> nn.Module:
        torch.manual_seed(4)
        return self.model().double()

    def problem(self) -> aa.Problem:
        return aa.Problem(self.start(), cross_entropy, device="cpu")

    def gamma(self) -> aa.Performance:
        return self.judge(*self.data(3, 99))

    def record(self, path: Path) -> Trajectory:
        model = self.start()
        optimizer = self.optimizer(trainable(model))
        torch.manual_seed(5)
        with aa.Recorder(path, model, optimizer, cross_entropy, checkpoint_every=2) as recorder:
            first = 0
            for name, steps in STAGES:
                with recorder.stage(name):
                    for k in range(first, first + steps):
                        recorder.batch(*self.data(7, k))
                        backward(model, optimizer, *self.data(7, k))
                        optimizer.step()
                first += steps
        return aa.open_run(path)

    def trained(self, treatments: Mapping[int, float]) -> nn.Module:
        """Plain torch: what step k does to parameters, optimizer and buffers is multiplied by its treatment, if any."""
        model = self.start()
        optimizer = self.optimizer(trainable(model))
        torch.manual_seed(5)
        for k in range(STEPS):
            buffers = {n: b.clone() for n, b in model.named_buffers() if b.is_floating_point()}
            backward(model, optimizer, *self.data(7, k))
            before = [(p.detach().clone(), dict(slots(optimizer, p))) for p in trainable(model)]
            optimizer.step()
            if k in treatments:
                for p, (old, old_slots) in zip(trainable(model), before, strict=True):
                    p.data = blend(old, p.detach(), treatments[k])
                    now = slots(optimizer, p)
                    optimizer.state[p] |= {s: blend(old_slots.get(s), t, treatments[k]) for s, t in now.items()}
                for n, old in buffers.items():
                    model.get_buffer(n).copy_(blend(old, model.get_buffer(n).clone(), treatments[k]))
        return model

    def judged(self, treatments: Mapping[int, float], buffers: Mapping[str, Tensor] | None = None) -> Tensor:
        """The values of `gamma` after such a training, with the model's buffers as they came, or as given."""
        model = self.trained(treatments)
        buffers = {n: b if buffers is None else buffers[n] for n, b in model.named_buffers()}
        with torch.no_grad():
            return self.gamma()(self.problem(), dict(model.named_parameters()), buffers)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean over examples, or over tokens."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def backward(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: Any, targets: Tensor) -> None:
    optimizer.zero_grad()
    outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    cross_entropy(output_tensor(outputs), targets).backward()


def slots(optimizer: torch.optim.Optimizer, param: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of a parameter, its count of steps included, in float64."""
    return {n: t.detach().double().clone() for n, t in optimizer.state[param].items() if isinstance(t, Tensor)}


def blend(old: Tensor | None, new: Tensor, treatment: float) -> Tensor:
    """old + treatment * (new - old); what did not exist was zero."""
    old = torch.zeros_like(new) if old is None else old
    return old + treatment * (new - old) if treatment else old


# ---- data --------------------------------------------------------------------------------------------------------


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 5, 5, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, zoo.CLASSES, (n,), generator=generator)


def texts(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (n, TOKENS), generator=generator)
    return words, torch.randint(0, zoo.CLASSES, (n,), generator=generator)


def passages(n: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and next tokens of a language model; every other passage is padded on the left."""
    words = texts(n, seed)[0]
    mask = torch.ones(n, TOKENS - 1, dtype=torch.int64)
    mask[::2, :1] = 0
    return {"input_ids": words[:, :-1], "attention_mask": mask}, words[:, 1:]


# ---- models ------------------------------------------------------------------------------------------------------


def cnn(norm: Callable[[], nn.Module] = nn.Identity) -> nn.Module:
    body = [nn.Conv2d(1, 3, 3, padding=1), norm(), nn.GELU(), nn.AvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(12, zoo.CLASSES))


class Transformer(nn.Module):
    """One block: causal attention by torch's fused function, layer norm, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(WORDS, 8), nn.Parameter(torch.randn(TOKENS, 8) / 3)
        self.attend, self.mix = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm, self.drop, self.out = nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, zoo.CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        h = self.embed(words) + self.place
        q, k, v = self.attend(self.norm(h)).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        h = h + self.drop(self.mix(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)))
        return self.out(h.mean(1))


class Pooled(nn.Module):
    """Word vectors, pooled; word 0 is padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(WORDS, 5, padding_idx=0), nn.Linear(5, zoo.CLASSES)

    def forward(self, words: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embed(words).mean(1)))


def gpt2() -> nn.Module:
    """A GPT-2 from a configuration; its output layer is its word embedding."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")
    sizes = {"vocab_size": WORDS, "n_positions": TOKENS, "n_embd": 8, "n_layer": 2, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1))


def lora() -> nn.Module:
    peft = pytest.importorskip("peft", reason="needs peft, of the extra 'transformers'")
    return peft.get_peft_model(gpt2(), peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))


def adamw(params: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=0.01, weight_decay=0.1, eps=1e-4)


KINDS = {
    "mlp": Kind(zoo.mlp, zoo.examples),
    "cnn": Kind(cnn, images),
    "cnn with batch norm": Kind(lambda: cnn(lambda: nn.BatchNorm2d(3)), images),
    "transformer": Kind(Transformer, texts, adamw),
    "embedding, pooled": Kind(Pooled, texts, zoo.OPTIMIZERS["nesterov"]),
    "lstm": Kind(zoo.Recurrent, zoo.examples),
    "gpt2": Kind(gpt2, passages, judge=aa.sequence_log_likelihood),
    "gpt2 with LoRA": Kind(lora, passages, adamw, aa.sequence_log_likelihood),
}
