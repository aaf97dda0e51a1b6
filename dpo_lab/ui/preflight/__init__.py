"""A check of data as a page and as a widget."""
