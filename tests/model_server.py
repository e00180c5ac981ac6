"""A server of the OpenAI API as far as radpo asks one: `python model_server.py PORT NOTES [die|deaf|MODEL]`.

NOTES gets a line at each start: its process, that of a child it has, and the GPUs it sees. It answers any question with
a rating and the name of its model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Answers."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_error(404)
        else:
            self._answer({"data": [], "process": os.getpid()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": f"[[7]] {body['model']}"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        self._answer({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})

    def _answer(self, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: Any) -> None: ...


if __name__ == "__main__":
    port, notes, how = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    child = subprocess.Popen(["sleep", "600"])
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    with notes.open("a") as stream:
        stream.write(f"{os.getpid()} {child.pid} {gpus or 'none'}\n")
    print("loading the model", flush=True)
    if "die" in how:
        sys.exit("RuntimeError: CUDA out of memory")
    if "deaf" in how:
        time.sleep(600)
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
