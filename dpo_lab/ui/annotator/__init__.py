"""Click which answer is better, then train on the clicks."""
