"""Run the command line `classifier` as `python -m classifier`, which is how torchrun starts programs."""

from balancer.core.start import classifier

if __name__ == "__main__":  # processes that Python's multiprocessing starts import this file too
    classifier()
