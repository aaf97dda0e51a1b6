"""Interactive explorers: widgets that show one idea each."""
