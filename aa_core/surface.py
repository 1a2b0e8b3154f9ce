"""The public names of the engine, as users write them: `aa.Recorder`, `aa.open_run`, ..."""

from aa_core.checkpoints_only.checkpoint_builder import Checkpoint, SegmentStage, from_checkpoints
from aa_core.checkpoints_only.checkpoints import CheckpointRun, check_checkpoints, open_checkpoints
from aa_core.checkpoints_only.forget_steps import forget_steps
from aa_core.checkpoints_only.segment_effects import segment_effects
from aa_core.checkpoints_only.segment_examples import segment_example_effects
from aa_core.confidence.agreement import Agreement, agreement
from aa_core.confidence.calibrate import calibrate
from aa_core.confidence.calibration import Calibration, find_calibration
from aa_core.confidence.disagreement import with_disagreement
from aa_core.confidence.noise import NoiseFloor, noise_floor
from aa_core.confidence.remainder import Remainder, remainders, with_remainders
from aa_core.confidence.verdict import Verdict
from aa_core.counterfactuals.counterfactual import Counterfactual
from aa_core.counterfactuals.counterfactual_run import record_counterfactual
from aa_core.counterfactuals.fleet import retrain_all
from aa_core.counterfactuals.retrain import TrainedModel, final_model, retrain
from aa_core.counterfactuals.whatif import WhatIf, what_if
from aa_core.effects.attribution import Attribution, stage_effects, step_effects
from aa_core.effects.embedding import StageEmbedding, embed_stages
from aa_core.effects.estimate import estimate, predict
from aa_core.effects.example_effects import example_effects, example_effects_by_step, ranked
from aa_core.effects.path_shares import PathShares, path_shares
from aa_core.effects.splits import (
    collapse,
    stage_effects_by_parameter,
    step_effects_by_cause,
    step_effects_by_parameter,
)
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
from aa_core.recording.averaging import Averaging
from aa_core.recording.recorder import Recorder
from aa_core.replay import replay_drift
from aa_core.rules import UpdateRule, register_rule
from aa_core.runs.evaluation import Evaluation
from aa_core.runs.examples import DatasetReference
from aa_core.runs.integrity import check_integrity
from aa_core.runs.trajectory import Trajectory, open_run
from aa_core.scores import (
    binary_log_likelihood,
    negative_loss,
    negative_squared_error,
    sequence_log_likelihood,
    token_log_likelihood,
)
from aa_core.version import __version__

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
