"""Which stage of its training is to credit or to blame for what a model does."""

from aa_core.agreement import Agreement, agreement
from aa_core.attribution import Attribution, estimate, predict, stage_effects, step_effects
from aa_core.averaging import Averaging
from aa_core.calibrate import calibrate
from aa_core.calibration import Calibration, find_calibration
from aa_core.checkpoint_builder import Checkpoint, SegmentStage, from_checkpoints
from aa_core.checkpoints import CheckpointRun, check_checkpoints, open_checkpoints
from aa_core.counterfactual import Counterfactual
from aa_core.counterfactual_run import record_counterfactual
from aa_core.disagreement import with_disagreement
from aa_core.embedding import StageEmbedding, embed_stages
from aa_core.evaluation import Evaluation
from aa_core.example_effects import example_effects, example_effects_by_step, ranked
from aa_core.examples import DatasetReference
from aa_core.fleet import retrain_all
from aa_core.forget_steps import forget_steps
from aa_core.integrity import check_integrity
from aa_core.noise import NoiseFloor, noise_floor
from aa_core.path_shares import PathShares, path_shares
from aa_core.performance import (
    Performance,
    accuracy,
    confounder_log_likelihood,
    log_likelihood,
    margin,
    performance,
    probability,
    subgroup,
    subgroups,
)
from aa_core.problem import Problem
from aa_core.recorder import Recorder
from aa_core.remainder import Remainder, remainders, with_remainders
from aa_core.replay import replay_drift
from aa_core.retrain import TrainedModel, final_model, retrain
from aa_core.rules import UpdateRule, register_rule
from aa_core.scores import (
    binary_log_likelihood,
    negative_loss,
    negative_squared_error,
    sequence_log_likelihood,
    token_log_likelihood,
)
from aa_core.segment_effects import segment_effects
from aa_core.segment_examples import segment_example_effects
from aa_core.splits import collapse, stage_effects_by_parameter, step_effects_by_cause, step_effects_by_parameter
from aa_core.trajectory import Trajectory, open_run
from aa_core.verdict import Verdict
from aa_core.version import __version__
from aa_core.whatif import WhatIf, what_if

__all__ = [
    "Agreement",
    "Attribution",
    "Averaging",
    "Calibration",
    "Checkpoint",
    "CheckpointRun",
    "Counterfactual",
    "DatasetReference",
    "Evaluation",
    "NoiseFloor",
    "PathShares",
    "Performance",
    "Problem",
    "Recorder",
    "Remainder",
    "SegmentStage",
    "StageEmbedding",
    "TrainedModel",
    "Trajectory",
    "UpdateRule",
    "Verdict",
    "WhatIf",
    "__version__",
    "accuracy",
    "agreement",
    "binary_log_likelihood",
    "calibrate",
    "check_checkpoints",
    "check_integrity",
    "collapse",
    "confounder_log_likelihood",
    "embed_stages",
    "estimate",
    "example_effects",
    "example_effects_by_step",
    "final_model",
    "find_calibration",
    "forget_steps",
    "from_checkpoints",
    "log_likelihood",
    "margin",
    "negative_loss",
    "negative_squared_error",
    "noise_floor",
    "open_checkpoints",
    "open_run",
    "path_shares",
    "performance",
    "predict",
    "probability",
    "ranked",
    "record_counterfactual",
    "register_rule",
    "remainders",
    "replay_drift",
    "retrain",
    "retrain_all",
    "segment_effects",
    "segment_example_effects",
    "sequence_log_likelihood",
    "stage_effects",
    "stage_effects_by_parameter",
    "step_effects",
    "step_effects_by_cause",
    "step_effects_by_parameter",
    "subgroup",
    "subgroups",
    "token_log_likelihood",
    "what_if",
    "with_disagreement",
    "with_remainders",
]
