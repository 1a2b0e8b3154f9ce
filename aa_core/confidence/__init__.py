"""How far an estimate can be believed, and real retraining that says so."""
