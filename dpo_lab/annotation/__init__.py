"""Annotation: a person, or a simulated annotator, compares two answers."""
