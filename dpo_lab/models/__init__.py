"""Who speaks: loading, scoring, sampling, the reference and its cache."""
