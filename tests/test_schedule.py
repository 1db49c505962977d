"""The schedule: a line that cron's shell can run as it is, and units that systemd takes literally."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from pathlib import Path

from pipeline import schedule

EVERY_DAY = "0 4 * * * "


def cron_line(root: Path) -> str:
    """What cron hands to the shell: an escaped % is a %."""
    line = next(line for line in schedule.texts(root).splitlines() if line.startswith(EVERY_DAY))
    return line.removeprefix(EVERY_DAY).replace(r"\%", "%")


def test_schedules_survive_any_folder_name(tmp_path: Path) -> None:
    root = tmp_path / "my 100% maps"
    root.mkdir()
    words = shlex.split(cron_line(root))
    assert words[1] == str(root)
    assert words[-4:] == ["batch", ">>", "data/logs/cron.log", "2>&1"]
    assert str(root) in words[words.index("--root") + 1]
    text = schedule.texts(root)
    assert "my 100%% maps" in next(line for line in text.splitlines() if line.startswith("ExecStart="))


def test_the_line_runs_where_no_batch_has_run_before(tmp_path: Path) -> None:
    root = tmp_path / "my 100% maps"
    (root / "configs").mkdir(parents=True)
    # Cron starts in the home folder, with little more than a path.
    here = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["/bin/sh", "-c", cron_line(root)], check=False, capture_output=True, text=True, cwd=tmp_path, env=here
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (root / "data" / "logs" / "cron.log").read_text().startswith("There is no area to run")


def test_the_service_runs_as_who_asks(tmp_path: Path) -> None:
    lines = schedule.texts(tmp_path).splitlines()
    service = lines[lines.index("[Service]") : lines.index("[Timer]")]
    assert f"User={pwd.getpwuid(os.getuid()).pw_name}" in service
