"""The lab without a browser: the command `dpo-lab`."""
