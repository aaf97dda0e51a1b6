"""DPO Lab: understand and steer Direct Preference Optimization."""
