"""Training: configuration, the loop, evaluation, run folders and checkpoints, sweeps."""
