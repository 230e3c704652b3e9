"""The published systems."""
