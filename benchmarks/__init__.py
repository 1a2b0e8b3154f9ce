"""What the engine costs and how well it agrees with real retraining, measured."""
