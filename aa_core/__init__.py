"""Which stage of its training is to credit or to blame for what a model does."""

from aa_core.agreement import Agreement, agreement
from aa_core.attribution import Attribution, predict, stage_effects, step_effects
from aa_core.counterfactual import Counterfactual
from aa_core.embedding import StageEmbedding, embed_stages
from aa_core.evaluation import Evaluation
from aa_core.examples import DatasetReference
from aa_core.performance import Performance, log_likelihood, margin, performance, probability
from aa_core.problem import Problem
from aa_core.recorder import Recorder
from aa_core.replay import replay_drift
from aa_core.retrain import TrainedModel, final_model, retrain
from aa_core.trajectory import Trajectory, check_integrity, open_run
from aa_core.version import __version__
from aa_core.whatif import WhatIf, what_if

__all__ = [
    "Agreement",
    "Attribution",
    "Counterfactual",
    "DatasetReference",
    "Evaluation",
    "Performance",
    "Problem",
    "Recorder",
    "StageEmbedding",
    "TrainedModel",
    "Trajectory",
    "WhatIf",
    "__version__",
    "agreement",
    "check_integrity",
    "embed_stages",
    "final_model",
    "log_likelihood",
    "margin",
    "open_run",
    "performance",
    "predict",
    "probability",
    "replay_drift",
    "retrain",
    "stage_effects",
    "step_effects",
    "what_if",
]
