"""The same numbers in less time or memory: head, gradients, layers, attention, threads."""
