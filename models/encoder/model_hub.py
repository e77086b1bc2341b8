"""Files of a model hub, at pinned revisions, by the client that transformers brings (`huggingface_hub`).

Owns asking and fetching; HF_ENDPOINT and the client's other variables choose the hub. Must not judge what came: whoever
wants the files checks their digest.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ASK_S = 5.0
# The interpreter's own start and the client's import (2 s when cold) come on top.
ASK_LIMIT_S = 30.0

# One HEAD first: a hub that cannot be reached costs seconds, and not as many tries as there are files.
_FETCH = """\
import sys
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
mode, repo, revision, seconds, folder, *names = sys.argv[1:]
if mode == "ask":
    get_hf_file_metadata(hf_hub_url(repo, names[0], revision=revision), timeout=float(seconds))
else:
    for name in names:
        hf_hub_download(repo, name, revision=revision, local_dir=folder)
"""


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of one repository at one commit, in the order to fetch them in."""

    repo: str
    revision: str
    names: tuple[str, ...]


def fetch(python: Path, files: HubFiles, folder: Path) -> bool:
    """Put the files into `folder`, by an interpreter that has the client; False where no hub gives them.

    Not to be had is no error, as there is another source. A hub that stops in the middle counts as none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (files.repo, files.revision, str(ASK_S), str(folder), *files.names)
    environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for mode, limit_s in (("ask", ASK_LIMIT_S), ("fetch", None)):
        command = [str(python), "-c", _FETCH, mode, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, env=environment, timeout=limit_s, check=False)
        except (subprocess.TimeoutExpired, OSError):
            return False
        if done.returncode:
            return False
    return True
