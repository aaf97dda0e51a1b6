"""Drag beta, train, watch."""
