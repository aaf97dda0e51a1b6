"""Arrays to plotly figures."""
