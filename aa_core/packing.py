"""Parameters side by side: an elementwise optimizer costs a few long operations instead of many short ones."""

from __future__ import annotations

import torch
from torch import Tensor

from aa_core.records import Groups
from aa_core.state import Params, State


class Packing:
    """Packs tensors of one parameter group, clock and dtype into one vector named by its number, and unpacks them.

    For derivatives only: a packed update may round differently in the last bit. Parameters at rest are packed, too.
    """

    def __init__(self, groups: Groups, clocks: Groups, like: Params, *, together: bool = True) -> None:
        """`together=False` packs nothing: every parameter keeps its shape, for rules that are not elementwise."""
        self.shapes = {n: p.shape for n, p in like.items()}
        self._together = together
        group = {n: g for g, names in enumerate(groups) for n in names}
        clock = {n: c for c, names in enumerate(clocks) for n in names}
        keys = {n: (group.get(n), clock.get(n), p.dtype if together else n) for n, p in like.items()}
        order = list(dict.fromkeys(keys.values()))
        self.bundles = {str(i): tuple(n for n, k in keys.items() if k == key) for i, key in enumerate(order)}
        self.groups = tuple(tuple(str(i) for i, k in enumerate(order) if k[0] == g) for g in range(len(groups)))
        self.clocks = tuple(tuple(str(i) for i, k in enumerate(order) if k[1] == c) for c in range(len(clocks)))

    def pack(self, params: Params, rays: tuple[int, ...] = ()) -> Params:
        """Tensors of shape [*rays, ...] -> vectors [*rays, size]; a bundle whose parameters are missing is left out."""
        found = {key: names for key, names in self.bundles.items() if names[0] in params}
        if not self._together:
            return {key: params[name] for key, (name,) in found.items()}
        return {
            key: torch.cat([params[n].reshape(*rays, -1) for n in names], len(rays)) for key, names in found.items()
        }

    def pack_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The bundles that consist of these parameters."""
        return tuple(key for key, members in self.bundles.items() if members[0] in names)

    def unpack(self, packed: Params, rays: tuple[int, ...] = ()) -> Params:
        """The inverse, as views, in the order of the parameters."""
        found: dict[str, Tensor] = {}
        for key, vector in packed.items():
            names = self.bundles[key]
            parts = vector.reshape(*rays, -1).split([self.shapes[n].numel() for n in names], len(rays))
            found |= {n: part.view(*rays, *self.shapes[n]) for n, part in zip(names, parts, strict=True)}
        return {n: found[n] for n in self.shapes if n in found}

    def pack_state(self, state: State, rays: tuple[int, ...] = ()) -> State:
        slots = {s: self.pack(leaves, rays) for s, leaves in state.slots.items()}
        return State(self.pack(state.params, rays), slots, state.count)

    def unpack_state(self, packed: State, rays: tuple[int, ...] = ()) -> State:
        slots = {s: self.unpack(leaves, rays) for s, leaves in packed.slots.items()}
        return State(self.unpack(packed.params, rays), slots, packed.count)
