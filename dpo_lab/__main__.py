"""`python -m dpo_lab` is `dpo-lab`."""

from dpo_lab.cli.commands import main

if __name__ == "__main__":
    main()
