"""TRL's `DPOTrainer`, its arguments and its callbacks, on the lab's loop."""
