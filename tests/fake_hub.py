"""A hub on loopback that takes a push as huggingface_hub sends it; what it holds is read back from `Hub.files`."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

SMALL = 10_000  # bytes: larger files go by LFS


@dataclass
class Hub:
    address: str = ""
    private: bool | None = None  # None: there is no repository
    files: dict[str, bytes] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # of LFS, by SHA-256
    tokens: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    lose: str = ""  # a file that a commit leaves out
    refuse: bool = False


@contextmanager
def start_hub() -> Iterator[Hub]:
    """A hub that is listening, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []  # of a chunked body
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def note(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        if "Authorization" in self.headers:
            self.hub.tokens.add(self.headers["Authorization"])

    def do_GET(self) -> None:
        self.note()
        if self.hub.private is None:
            self.answer({"error": "not found"}, 404)
        else:
            self.answer({"id": "me/student", "private": self.hub.private, "siblings": [], "tags": []})

    def do_PUT(self) -> None:
        self.note()
        data = self.body()
        digest = hashlib.sha256(data).hexdigest()
        assert self.path.endswith(digest)
        self.hub.objects[digest] = data
        self.answer({})

    def do_POST(self) -> None:
        self.note()
        data = self.body()
        if self.hub.refuse:
            self.answer({"error": f"no {self.headers['Authorization']}"}, 403)
        elif self.path == "/api/repos/create":
            self.create(json.loads(data))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(data)["files"]
            modes = {f["path"]: "lfs" if f["size"] > SMALL else "regular" for f in files}
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(data)["objects"]
            actions = [{"upload": {"href": f"{self.hub.address}/lfs/{o['oid']}"}} for o in objects]
            rows = [{**o, "actions": a} for o, a in zip(objects, actions, strict=True)]
            self.answer({"transfer": "basic", "objects": rows})
        elif "/commit/" in self.path:
            self.commit([json.loads(line) for line in data.splitlines()])
        else:
            assert "/paths-info/" in self.path, self.path
            self.tell(parse_qs(data.decode())["paths"])

    def create(self, asked: dict[str, Any]) -> None:
        if self.hub.private is not None:
            self.answer({"error": "exists", "url": f"{self.hub.address}/me/student"}, 409)
            return
        self.hub.private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.answer({"url": f"{self.hub.address}/me/student", "name": "me/student", "id": "1"})

    def commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[value["path"]] = self.hub.objects[value["oid"]]
        self.hub.files.pop(self.hub.lose, None)
        self.answer({"success": True, "commitOid": "c" * 40, "commitUrl": f"{self.hub.address}/me/student/commit/c"})

    def tell(self, paths: list[str]) -> None:
        rows = []
        for path in paths:
            if (data := self.hub.files.get(path)) is not None:
                digest = hashlib.sha256(data).hexdigest()
                lfs = {"oid": digest, "size": len(data), "pointerSize": 1} if len(data) > SMALL else None
                row = {"type": "file", "path": path, "size": len(data), "oid": "0" * 40}
                rows.append({**row, "lfs": lfs} if lfs else row)
        self.answer(rows)
