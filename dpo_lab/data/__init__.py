"""Rows to preference pairs to token ids to batches; knows no model."""
