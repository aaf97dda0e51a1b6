"""Numbers about a policy or a run: credit, displacement, suspect labels, the frontier."""
