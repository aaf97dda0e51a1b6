"""Draw the pictures of the README: the report of a fresh run, photographed by Chromium.

Usage: python assets/scripts/make_pictures.py  (needs Debian's package `chromium`)
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from dpo_lab.cli.jobs import train_and_report
from dpo_lab.training import TrainConfig

PICTURES = Path(__file__).parents[1] / "pictures"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--window-size=1280,1330", "--virtual-time-budget=8000",
)  # fmt: skip


def main() -> None:
    """Train, write the report, take its picture."""
    browser = shutil.which("chromium")
    if browser is None:
        raise SystemExit("chromium is missing: apt-get install chromium fonts-dejavu-core")
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / "micro on reviews"
        config = TrainConfig(steps=300, beta=0.3)
        train_and_report(config, run, resume=False, console=Console(), say=print)
        profile, picture = Path(scratch) / "profile", PICTURES / "report.png"
        page = (run / "report.html").as_uri()
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--screenshot={picture}", page]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
