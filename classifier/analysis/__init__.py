"""From finished trials to contrasts and verdicts."""
