"""What goes in: preference pairs, tokens, batches."""
