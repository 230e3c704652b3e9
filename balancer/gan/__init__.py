"""The DCGAN family: networks, losses, weight averaging and the training loop."""
