"""Balance an imbalanced image data set with a GAN, and measure what the synthetic images are worth."""

__version__ = "0.1.0"
