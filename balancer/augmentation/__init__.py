"""Classical (label-preserving, on the classifier) and differentiable (inside the GAN) augmentation."""
