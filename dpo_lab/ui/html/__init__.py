"""Escaped HTML: output of cells, tables, tokens, the text of a run."""
