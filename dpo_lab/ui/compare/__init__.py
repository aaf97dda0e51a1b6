"""Two models compared: result, page, chat and blind choice."""
