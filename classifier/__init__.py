"""Retrain a classifier under the regimes of an ablation and compare them honestly."""
