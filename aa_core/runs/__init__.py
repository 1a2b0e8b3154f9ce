"""What a run is on disk: written once, read and verified."""
