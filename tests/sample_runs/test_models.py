"""What the experiments' models promise beyond their shapes."""

from __future__ import annotations

import torch

from sample_runs.models import SmallGPT2

SIZES = {"characters": 11, "length": 6, "width": 8, "layers": 2, "heads": 2}


def test_no_character_is_told_from_later_ones() -> None:
    torch.manual_seed(0)
    model, text = SmallGPT2(**SIZES), torch.randint(0, 11, (3, 6))
    other = text.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 11
    before, after = model(text), model(other)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])


def test_adapters_change_nothing_at_first_and_are_all_that_is_trained() -> None:
    torch.manual_seed(0)
    plain, adapted, text = SmallGPT2(**SIZES), SmallGPT2(**SIZES, rank=2), torch.randint(0, 11, (3, 6))
    adapted.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(text), adapted(text))
    trained = {n for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained == set(dict(adapted.named_parameters())) - set(dict(plain.named_parameters()))
    assert all(p.requires_grad for p in plain.parameters())
