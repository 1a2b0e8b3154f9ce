"""What else could have happened in training, and training again so."""
