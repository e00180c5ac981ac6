"""Write the gate's verdict as a comment of the pull or merge request; one that is there is updated.

    python comment.py gate/gate.md

The comment is known by the file's first line, which no reader sees. In GitHub Actions it takes GH_TOKEN and
PULL_REQUEST (the number), in GitLab CI GITLAB_TOKEN; the rest of the environment is theirs. It needs only Python.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

LONGEST = 60_000
"""GitHub takes 65,536 characters."""


def main(path: Path) -> None:
    """Find the comment by its first line, and update or post it."""
    text = path.read_text(encoding="utf-8")
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}\n\n</details>\n\nThe rest is in the job's artifacts.\n"
    where = os.environ
    if "CI_API_V4_URL" in where:
        request = f"{where['CI_API_V4_URL']}/projects/{where['CI_PROJECT_ID']}/merge_requests"
        comments = f"{request}/{where['CI_MERGE_REQUEST_IID']}/notes"
        single, update, token = comments, "PUT", {"PRIVATE-TOKEN": where["GITLAB_TOKEN"]}
    else:
        issues = f"{where['GITHUB_API_URL']}/repos/{where['GITHUB_REPOSITORY']}/issues"
        comments, single = f"{issues}/{where['PULL_REQUEST']}/comments", f"{issues}/comments"
        update, token = "PATCH", {"Authorization": f"Bearer {where['GH_TOKEN']}"}
    old = earlier(comments, token, text.splitlines()[0])
    if old is None:
        call("POST", comments, token, {"body": text})
    else:
        call(update, f"{single}/{old}", token, {"body": text})


def earlier(comments: str, token: dict[str, str], mark: str) -> int | None:
    """The number of the comment that begins with a mark, if there is one."""
    page = 1
    while found := call("GET", f"{comments}?per_page=100&page={page}", token):
        for comment in found:
            if comment["body"].startswith(mark):
                return int(comment["id"])
        page += 1
    return None


def call(method: str, address: str, token: dict[str, str], body: dict[str, str] | None = None) -> Any:
    """The JSON reply to a request."""
    content = None if body is None else json.dumps(body).encode()
    headers = {**token, "Content-Type": "application/json", "Accept": "application/json"}
    request = urllib.request.Request(address, data=content, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
