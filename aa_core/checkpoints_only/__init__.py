"""Trainings of which only states between segments are known: approximated, and said to be."""
