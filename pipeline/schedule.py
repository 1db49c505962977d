"""Write what a system needs to run the batch by itself: a crontab line, and a systemd service with its timer."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from pathlib import Path


def command(root: Path) -> list[str]:
    """Give the batch as a command with absolute paths, for the interpreter that runs now."""
    return [sys.executable, "-m", "pipeline.cli", "--root", str(root.resolve()), "batch"]


def texts(root: Path, hour: int = 4) -> str:
    """Write the crontab line and the systemd units that run the batch every day at ``hour`` o'clock."""
    root = root.resolve()
    words = command(root)
    # In a crontab an unescaped % ends the command.
    line = (
        f"cd {shlex.quote(str(root))} && mkdir -p data/logs && {shlex.join(words)} >> data/logs/cron.log 2>&1"
    ).replace("%", r"\%")
    return f"""\
# crontab (add it with `crontab -e`): every day at {hour:02d}:00
0 {hour} * * * {line}

# /etc/systemd/system/terrastage.service
[Unit]
Description=Map every area of {_unit(str(root))} that has new scenes

[Service]
Type=oneshot
User={_unit(_user())}
WorkingDirectory={_unit(str(root))}
ExecStart={" ".join(_quoted(word) for word in words)}

# /etc/systemd/system/terrastage.timer (then: systemctl enable --now terrastage.timer)
[Unit]
Description=Daily run of terrastage.service

[Timer]
OnCalendar=*-*-* {hour:02d}:00:00
Persistent=true

[Install]
WantedBy=timers.target
"""


def _user() -> str:
    """Name the user who asks, by number where the system knows no name: the artifacts are to stay that user's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _unit(text: str) -> str:
    """Escape a text so that systemd takes it literally."""
    return text.replace("\\", "\\\\").replace("%", "%%")


def _quoted(word: str) -> str:
    escaped = _unit(word).replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"' if any(sign in word for sign in " \t'\"\\;") else escaped
