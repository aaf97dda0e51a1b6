"""Widgets that others are made of."""
