"""Inner products and norms of states: small leaves side by side, large ones alone, each as if leaf by leaf."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aa_core import state as states
from aa_core.state import State, as_rays, leaves, map_state, norm, pair, pair_change, side_by_side, stack_rays, subtract


@pytest.fixture(params=[0, 10, 1 << 15], ids=["all alone", "some together", "all together"], autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "ALONE", request.param)


def _state(seed: int, dtypes: tuple[torch.dtype, ...]) -> State:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    params = {
        str(i): drawn(*shape, dtype=dtypes[i % len(dtypes)]) for i, shape in enumerate([(3, 4), (2,), (), (5, 2)])
    }
    slots = {s: {n: drawn(*p.shape, dtype=p.dtype) for n, p in params.items()} for s in ("exp_avg", "average")}
    return State(params, slots, drawn(2, dtype=torch.float64))


def _by_leaf(a: State, b: State) -> float:
    return sum(float(x.double().flatten() @ y.double().flatten()) for x, y in zip(leaves(a), leaves(b), strict=True))


DTYPES = pytest.mark.parametrize(
    "dtypes",
    [(torch.float64,), (torch.float32,), (torch.float32, torch.float64), (torch.bfloat16, torch.float32)],
    ids=str,
)


@DTYPES
def test_pair_is_the_sum_over_leaves(dtypes: tuple[torch.dtype, ...]) -> None:
    cotangents, tangents = ([_state(10 * k + i, dtypes) for i in range(n)] for k, n in ((1, 3), (2, 2)))
    found = pair(stack_rays(cotangents), stack_rays(tangents))
    expected = torch.tensor([[_by_leaf(a, d) for d in tangents] for a in cotangents], dtype=torch.float64)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@DTYPES
def test_a_change_is_paired_as_it_would_be_by_itself(dtypes: tuple[torch.dtype, ...]) -> None:
    cotangents, after, before = [_state(i, dtypes) for i in (1, 2)], _state(3, dtypes), _state(4, dtypes)
    found = pair_change(stack_rays(cotangents), after, before)
    exact = subtract(*(map_state(Tensor.double, s) for s in (after, before)))
    expected = torch.tensor([_by_leaf(a, exact) for a in cotangents], dtype=torch.float64)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@DTYPES
def test_the_norm_is_that_of_parameters_and_their_average(dtypes: tuple[torch.dtype, ...]) -> None:
    each = [_state(i, dtypes) for i in (1, 2)]
    judged = [[*s.params.values(), *s.slots["average"].values()] for s in each]
    expected = torch.stack([torch.cat([t.double().flatten() for t in ts]).norm() for ts in judged])
    torch.testing.assert_close(norm(stack_rays(each)), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(norm(as_rays(each[0]))[0], expected[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("rays", [(), (1,), (3,)], ids=str)
def test_one_tensor_beside_nothing_is_not_copied(rays: tuple[int, ...]) -> None:
    alone, others = torch.randn(*rays, 4, 5), [torch.randn(*rays, n) for n in (2, 3)]
    assert side_by_side([alone], rays).data_ptr() == alone.data_ptr()
    assert torch.equal(side_by_side(others, rays), torch.cat(others, len(rays)))
