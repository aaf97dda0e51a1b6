"""One idea to drag or to look into."""
