"""Building blocks shared by the widgets: live figures, message routing, cleaning up."""
