"""The quality report on synthetic images."""
