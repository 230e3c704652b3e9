"""Metrics, temperature and thresholds."""
