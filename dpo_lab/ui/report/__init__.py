"""One run, or a sweep, as a page without a kernel."""
