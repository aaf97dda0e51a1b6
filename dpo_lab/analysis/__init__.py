"""Analysis of a policy or a run: token credit, displacement, suspect labels, the frontier."""
