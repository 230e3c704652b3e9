"""Distances between sets of images, on named feature networks."""
