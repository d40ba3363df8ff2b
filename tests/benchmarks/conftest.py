"""The benchmarks as somebody runs them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run_module(name: str, *arguments: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it leaves behind in its temporary directory is there to be looked at."""
    return subprocess.run(
        [sys.executable, "-m", name, *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=55,
    )
