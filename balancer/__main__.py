"""Run the command line `balancer` as `python -m balancer`, which is how torchrun starts programs."""

from balancer.core.start import balancer

if __name__ == "__main__":  # processes that Python's multiprocessing starts import this file too
    balancer()
