"""A stand-in for an API with batches: files, batches and plain chat completions, with a book of all that was asked."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Mapping
from email.parser import BytesParser
from typing import Any

Answer = Callable[[Mapping[str, Any]], str | tuple[int, Any] | None]
"""A request's body -> the reply's text, or status and body of an error, or None for no row at all."""


class BatchServer:
    """Serves on 127.0.0.1, as a context.

    Args:
        answer: of a request, direct or in a batch.
        looks: how often a batch is looked at before it has ended; None for never.
    """

    def __init__(self, answer: Answer, looks: int | None = 1) -> None:
        self.answer, self.looks = answer, looks
        self.direct: list[dict[str, Any]] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.inputs: list[list[dict[str, Any]]] = []
        self.files: dict[str, bytes] = {}
        self.ends = "completed"
        self.lose_next_creation = self.no_batches = False
        self.seen: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> BatchServer:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, method: str, path: str, headers: Any, content: bytes) -> tuple[int, Any]:
        """Status and body of an HTTP answer."""
        name = path.removeprefix("/v1/").partition("?")[0]
        if (method, name) == ("POST", "chat/completions"):
            body = json.loads(content)
            self.direct.append(body)
            return self._completion(body) or (500, {"error": {"message": "scripted"}})
        if self.no_batches:
            return 404, {"error": {"message": "no such path"}}
        if (method, name) == ("POST", "files"):
            parts = BytesParser().parsebytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\n\n" + content)
            fields = {part.get_param("name", header="content-disposition"): part for part in parts.get_payload()}
            assert fields["purpose"].get_payload(decode=True) == b"batch"
            file = f"file-{len(self.files)}"
            self.files[file] = fields["file"].get_payload(decode=True)
            return 200, {"id": file, "object": "file", "purpose": "batch"}
        if (method, name) == ("POST", "batches"):
            asked = json.loads(content)
            batch = {"id": f"batch_{len(self.batches)}", "object": "batch", "status": "validating", **asked}
            self.batches[batch["id"]] = batch
            self.inputs.append([json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()])
            if self.lose_next_creation:
                self.lose_next_creation = False
                return 502, {"error": {"message": "lost"}}
            return 200, batch
        if (method, name) == ("GET", "batches"):
            return 200, {"object": "list", "data": list(self.batches.values())[::-1], "has_more": False}
        if method == "GET" and name.startswith("batches/"):
            return 200, self._look(self.batches[name.removeprefix("batches/")])
        if method == "GET" and name.startswith("files/"):
            return 200, self.files[name.split("/")[1]]
        return 404, {"error": {"message": name}}

    def _look(self, batch: dict[str, Any]) -> dict[str, Any]:
        number = int(batch["id"].partition("_")[2])
        self.seen[batch["id"]] = self.seen.get(batch["id"], 0) + 1
        if batch["status"] in ("validating", "in_progress"):
            if self.looks is None or self.seen[batch["id"]] <= self.looks:
                return {**batch, "status": "in_progress", "request_counts": {"total": 1, "completed": 0, "failed": 0}}
            batch["status"] = self.ends
            if self.ends == "failed":
                return batch | {"errors": {"data": [{"message": "the file is no good", "line": 1}]}}
            rows: dict[str, list[Any]] = {"output": [], "error": []}
            for line in reversed(self.inputs[number]):  # in any order
                found = self._completion(line["body"])
                if found is not None:
                    response = {"status_code": found[0], "request_id": "r", "body": found[1]}
                    row = {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}
                    rows["output" if found[0] == 200 else "error"].append(row)
            for kind, of in rows.items():
                if of:
                    self.files[f"file-{kind}-{number}"] = "\n".join(map(json.dumps, of)).encode()
                    batch[f"{kind}_file_id"] = f"file-{kind}-{number}"
        return batch

    def _completion(self, body: Mapping[str, Any]) -> tuple[int, Any] | None:
        given = self.answer(body)
        if given is None or isinstance(given, tuple):
            return given
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": given}}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, body = server.respond(self.command, self.path, self.headers, content)
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def do_GET(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                self._answer()

            def log_message(self, *words: Any) -> None:
                pass

        return Handler
