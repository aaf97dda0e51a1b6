"""The annotator: click which of two answers is better, then train on the clicks."""
