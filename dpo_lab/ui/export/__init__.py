"""A run's policy as a folder that others load, with a card that says what it is."""
