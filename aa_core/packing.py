"""Small parameters side by side: an elementwise optimizer costs a few long operations instead of many short ones."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor
from torch._utils import _unflatten_dense_tensors as unflatten

from aa_core.records import Groups
from aa_core.state import Params, State, side_by_side

BLOCK = 1 << 16
"""Elements of a bundle at most, so that it stays in the processor's cache; a parameter of more is alone, not copied."""
BLOCK_ON_GPU = 1 << 24
"""There it is launches that cost, not the cache."""


class Packing:
    """Packs tensors of one parameter group, clock and dtype into vectors, each named by its number, and unpacks them.

    For derivatives only: a packed update may round differently in the last bit. Parameters at rest are packed, too.
    """

    def __init__(
        self, groups: Groups, clocks: Groups, like: Params, *, together: bool = True, on_gpu: bool = False
    ) -> None:
        """`together=False` packs nothing: every parameter keeps its shape, for rules that are not elementwise."""
        self.shapes = {n: p.shape for n, p in like.items()}
        self._block = BLOCK_ON_GPU if on_gpu else BLOCK
        group = {n: g for g, names in enumerate(groups) for n in names}
        clock = {n: c for c, names in enumerate(clocks) for n in names}
        keys = {n: (group.get(n), clock.get(n), p.dtype if together else n) for n, p in like.items()}
        alike = [tuple(n for n, k in keys.items() if k == key) for key in dict.fromkeys(keys.values())]
        self.bundles = {str(i): names for i, names in enumerate(chain.from_iterable(map(self._cut, alike)))}
        self._sizes = {key: [self.shapes[n].numel() for n in names] for key, names in self.bundles.items()}
        likes = {n: torch.empty(1, *shape, device="meta") for n, shape in self.shapes.items()}
        self._likes = {key: [likes[n] for n in names] for key, names in self.bundles.items()}
        self.groups = self._parts(groups)
        self.clocks = self._parts(clocks)

    def _cut(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Into runs of at most a block's elements, as far as each holds several: the large ones, then the others."""
        runs: list[tuple[str, ...]] = []
        room = 0
        for name in sorted(names, key=lambda n: self.shapes[n].numel() < self._block):
            size = self.shapes[name].numel()
            if size > room or not runs:
                runs.append(())
                room = self._block
            runs[-1] += (name,)
            room -= size
        return runs

    def _parts(self, division: Groups) -> Groups:
        """The same division of the bundles."""
        return tuple(tuple(key for key, members in self.bundles.items() if members[0] in names) for names in division)

    def pack(self, params: Params, rays: tuple[int, ...] = ()) -> Params:
        """Tensors of shape [*rays, ...] -> vectors [*rays, size], but for one that is alone, which stays as it is.

        A bundle whose parameters are missing is left out."""
        found = {key: [params[n] for n in names] for key, names in self.bundles.items() if names[0] in params}
        return {key: side_by_side(ts, rays) if len(ts) > 1 else ts[0] for key, ts in found.items()}

    def pack_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The bundles that consist of these parameters."""
        return tuple(key for key, members in self.bundles.items() if members[0] in names)

    def unpack(self, packed: Params, rays: tuple[int, ...] = ()) -> Params:
        """The inverse, as views, in the order of the parameters."""
        found: dict[str, Tensor] = {}
        for key, vector in packed.items():
            names, sizes = self.bundles[key], self._sizes[key]
            if len(names) == 1:
                parts = [vector]
            elif rays == (1,) and all(sizes):  # one call, which forgets the shape of what is empty
                parts = unflatten(vector.view(-1), self._likes[key])
            else:
                split = vector.reshape(*rays, -1).split(sizes, len(rays))
                parts = [part.view(*rays, *self.shapes[n]) for n, part in zip(names, split, strict=True)]
            found |= zip(names, parts, strict=True)
        return {n: found[n] for n in self.shapes if n in found}

    def pack_state(self, state: State, rays: tuple[int, ...] = ()) -> State:
        slots = {s: self.pack(leaves, rays) for s, leaves in state.slots.items()}
        return State(self.pack(state.params, rays), slots, state.count)

    def unpack_state(self, packed: State, rays: tuple[int, ...] = ()) -> State:
        slots = {s: self.unpack(leaves, rays) for s, leaves in packed.slots.items()}
        return State(self.unpack(packed.params, rays), slots, packed.count)
