"""The workbench: set beta, train, and watch the run."""
