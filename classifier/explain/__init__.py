"""Where a classifier looks: heat maps, whether they mean something, and whether regimes look at different places."""

from classifier.explain.heatmaps import HeatMaps, explain

__all__ = ["HeatMaps", "explain"]
