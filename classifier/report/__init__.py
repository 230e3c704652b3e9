"""Tables, figures and pages of an ablation."""
