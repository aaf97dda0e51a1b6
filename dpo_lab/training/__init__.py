"""How it learns: configuration, loop, callbacks, runs."""
