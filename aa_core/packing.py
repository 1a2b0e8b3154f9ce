"""Parameters side by side: an elementwise optimizer costs a few long operations instead of many short ones."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.state import Params, State

Groups = tuple[tuple[str, ...], ...]


class Packing:
    """Packs tensors of one parameter group and dtype into one vector named by its number, and unpacks them.

    For derivatives only: a packed update may round differently in the last bit.
    """

    def __init__(self, groups: Groups, like: Params, *, together: bool = True) -> None:
        """`together=False` packs nothing: every parameter keeps its shape, for rules that are not elementwise."""
        self.shapes = {n: p.shape for n, p in like.items()}
        self._together = together
        keys = {n: (g, like[n].dtype if together else n) for g, names in enumerate(groups) for n in names}
        order = list(dict.fromkeys(keys.values()))
        self.bundles = {str(i): tuple(n for n, k in keys.items() if k == key) for i, key in enumerate(order)}
        self.groups = tuple(tuple(str(i) for i, (g, _) in enumerate(order) if g == at) for at in range(len(groups)))

    def pack(self, params: Params, rays: tuple[int, ...] = ()) -> Params:
        """Tensors of shape [*rays, ...] -> vectors [*rays, size]."""
        if not self._together:
            return {key: params[name] for key, (name,) in self.bundles.items()}
        return {
            key: torch.cat([params[n].reshape(*rays, -1) for n in names], len(rays))
            for key, names in self.bundles.items()
        }

    def unpack(self, packed: Params, rays: tuple[int, ...] = ()) -> Params:
        """The inverse, as views, in the order of the parameters."""
        found: dict[str, Tensor] = {}
        for key, names in self.bundles.items():
            vector = packed[key].reshape(*rays, -1)
            parts = vector.split([self.shapes[n].numel() for n in names], len(rays))
            found |= {n: part.view(*rays, *self.shapes[n]) for n, part in zip(names, parts, strict=True)}
        return {n: found[n] for n in self.shapes}

    def pack_state(self, state: State, rays: tuple[int, ...] = ()) -> State:
        slots = {s: self.pack(leaves, rays) for s, leaves in state.slots.items()}
        return State(self.pack(state.params, rays), slots, state.count)

    def unpack_state(self, packed: State, rays: tuple[int, ...] = ()) -> State:
        slots = {s: self.unpack(leaves, rays) for s, leaves in packed.slots.items()}
        return State(self.unpack(packed.params, rays), slots, packed.count)
