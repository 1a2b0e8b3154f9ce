"""Small recorded runs that ship, the problems they need, and the scripts that record them again."""
