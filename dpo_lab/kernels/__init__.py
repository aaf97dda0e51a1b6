"""Faster or leaner versions of the same computations: output head, gradients, layers, attention."""
