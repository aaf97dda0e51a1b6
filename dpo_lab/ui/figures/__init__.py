"""Plotly figures, made from arrays and records."""
