"""What of the engine needs no torch, and so is there before it: words, marks and figures, and the curves of a run."""

from aa_core.reporting import breakdown, escape, figures, glossary, marks, sketch
from aa_core.runs.curves import Curves, read_curves
from aa_core.stages import Stage

__all__ = ["Curves", "Stage", "breakdown", "escape", "figures", "glossary", "marks", "read_curves", "sketch"]
