"""A person, or a simulated one, compares two answers."""
