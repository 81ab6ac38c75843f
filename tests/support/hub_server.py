"""A local server that speaks enough of the hub's protocol for its own clients to download from.

Set HF_ENDPOINT to `HubServer.url` in a new process (the clients read it when imported). What the
hub does with large files is done here too: a redirect to another host, which sees no token.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".parquet", ".gz", ".zst", ".gguf")  # kept in LFS by the hub
API = re.compile(
    r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(.*))?"
)
ACCESS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/auth-check")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
STORE = re.compile(r"/store/([0-9a-f]{64})")


@dataclass
class Repository:
    """Files of each commit, and which commit each revision names."""

    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    """A client's request."""

    method: str
    path: str
    range: str | None
    token: str | None


class HubServer:
    """A hub on 127.0.0.1 with the repositories that `add` was given; a context manager."""

    def __init__(self) -> None:
        self.token = "hf_good"  # has access to what is gated
        self.stranger = "hf_stranger"  # a known user's, without access
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.unknown: list[str] = []
        self.breaks: dict[str, list[int]] = {}
        self.damaged: set[str] = set()
        server = self

        class Handler(HubHandler):
            hub = server

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> "HubServer":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def add(
        self,
        kind: str,
        repo_id: str,
        files: dict[str, bytes],
        revision: str = "main",
        gated: bool = False,
    ) -> str:
        """Add a commit to a repository ("models" or "datasets") and return its hash."""
        repository = self.repositories.setdefault((kind, repo_id), Repository())
        content = json.dumps({name: sha256(data) for name, data in sorted(files.items())})
        commit = hashlib.sha1(f"{repo_id} {content}".encode()).hexdigest()
        repository.commits[commit] = files
        repository.revisions[revision] = commit
        repository.gated = gated
        return commit

    def break_transfers(self, name: str, after: list[int]) -> None:
        """Cut the next transfers of a file after this many bytes each."""
        self.breaks[name] = list(after)

    def damage(self, name: str) -> None:
        """Serve wrong bytes for a file, of the right number."""
        self.damaged.add(name)

    def asked_for(self, name: str, method: str = "GET") -> list[Request]:
        """Return the requests of a file's content by name, in order."""
        stored = {
            sha256(files[name])
            for repository in self.repositories.values()
            for files in repository.commits.values()
            if name in files
        }
        return [
            request
            for request in self.requests
            if request.method == method
            and (request.path.endswith(f"/{name}") or request.path.rsplit("/")[-1] in stored)
        ]


class HubHandler(BaseHTTPRequestHandler):
    """Answers one client."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.route()

    def do_GET(self) -> None:
        self.route()

    def do_POST(self) -> None:
        self.route()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the terminal clean."""

    def route(self) -> None:
        parts = urlsplit(self.path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        request = Request(self.command, parts.path, self.headers.get("Range"), token)
        self.hub.requests.append(request)
        length = int(self.headers.get("Content-Length") or 0)
        form = parse_qs(self.rfile.read(length).decode()) if length else {}
        if token not in (None, self.hub.token, self.hub.stranger):
            self.refuse(401, "", "Invalid credentials in Authorization header")
        elif found := ACCESS.fullmatch(parts.path):
            repository = self.repository(found[1], found[2], token)
            if repository is not None and self.may_read(repository, token):
                self.send_json({})
        elif found := API.fullmatch(parts.path):
            self.answer_api(found, parse_qs(parts.query), form, token)
        elif found := STORE.fullmatch(parts.path):
            self.answer_store(found[1], token)
        elif found := FILE.fullmatch(parts.path):
            self.answer_file(found, token)
        else:
            self.hub.unknown.append(f"{self.command} {self.path}")
            self.refuse(404, "", "not known here")

    def repository(self, kind: str, repo_id: str, token: str | None) -> Repository | None:
        found = self.hub.repositories.get((kind, repo_id))
        if found is None and token is None:
            self.refuse(401, "", "Invalid username or password.")  # so the hub answers strangers
        elif found is None:
            self.refuse(404, "RepoNotFound", "Repository not found")
        return found

    def commit_of(self, repository: Repository, revision: str) -> str | None:
        name = unquote(revision)
        commit = name if name in repository.commits else repository.revisions.get(name)
        if commit is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {name}")
        return commit

    def may_read(self, repository: Repository, token: str | None) -> bool:
        allowed = not repository.gated or token == self.hub.token
        if not allowed:
            status = 401 if token is None else 403
            self.refuse(status, "GatedRepo", "Access to it is restricted.")
        return allowed

    def answer_api(
        self, found: re.Match[str], query: dict[str, Any], form: dict[str, Any], token: str | None
    ) -> None:
        kind, repo_id, what, revision, below = found.groups()
        repository = self.repository(kind, repo_id, token)
        if repository is None:
            return
        commit = self.commit_of(repository, revision or "main")
        if commit is None:
            return
        files = repository.commits[commit]
        if what == "tree":
            folder = unquote(below).strip("/")
            self.send_json(tree(files, folder, recursive="recursive" in query))
        elif what == "paths-info":
            wanted = set(form.get("paths", []))
            self.send_json([entry for entry in tree(files, "", True) if entry["path"] in wanted])
        else:
            blobs = "blobs" in query
            self.send_json(
                {
                    "id": repo_id,
                    "sha": commit,
                    "private": False,
                    "gated": "manual" if repository.gated else False,
                    "disabled": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "siblings": [sibling(name, data, blobs) for name, data in files.items()],
                }
            )

    def answer_file(self, found: re.Match[str], token: str | None) -> None:
        kind = "datasets" if found[1] else "models"
        name = unquote(found[4])
        repository = self.repository(kind, found[2], token)
        if repository is None:
            return
        if not self.may_read(repository, token):
            return
        commit = self.commit_of(repository, found[3])
        if commit is None:
            return
        data = repository.commits[commit].get(name)
        if data is None:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
            return
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not name.endswith(LARGE):
            self.send_bytes(data, {**headers, "ETag": f'"{blob_id(data)}"'}, name)
            return
        self.send_response(302)
        linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256(data)}"'}
        location = f"http://localhost:{self.hub.port}/store/{sha256(data)}"
        for key, value in {**headers, **linked, "Location": location}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def answer_store(self, digest: str, token: str | None) -> None:
        if token is not None:
            self.refuse(400, "", "a token was sent to another host")
            return
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for name, data in files.items():
                    if sha256(data) == digest:
                        self.send_bytes(data, {"ETag": f'"{digest}"'}, name)
                        return
        self.refuse(404, "EntryNotFound", "no such content")

    def send_bytes(self, data: bytes, headers: dict[str, str], name: str) -> None:
        start, stop = byte_range(self.headers.get("Range"), len(data))
        if start >= len(data) > 0:
            self.refuse(416, "", "range not satisfiable")
            return
        if name in self.hub.damaged:
            data = bytes(byte ^ 0xFF for byte in data)
        body = data[start:stop]
        self.send_response(200 if len(body) == len(data) else 206)
        if len(body) != len(data):
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.breaks.get(name):
            self.wfile.write(body[: self.hub.breaks[name].pop(0)])
            self.close_connection = True
            return
        self.wfile.write(body)

    def send_json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Message", message)
        if code:
            self.send_header("X-Error-Code", code)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def sha256(data: bytes) -> str:
    """Return the digest by which LFS knows a file."""
    return hashlib.sha256(data).hexdigest()


def blob_id(data: bytes) -> str:
    """Return the digest by which git knows a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def sibling(name: str, data: bytes, blobs: bool) -> dict[str, Any]:
    """Return a file as an entry of a repository's info."""
    entry: dict[str, Any] = {"rfilename": name}
    if blobs:
        entry |= {"size": len(data), "blobId": blob_id(data)}
        if name.endswith(LARGE):
            entry["lfs"] = {"sha256": sha256(data), "size": len(data), "pointerSize": 130}
    return entry


def tree(files: dict[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a folder of a commit, as the tree endpoint lists them."""
    prefix = f"{folder}/" if folder else ""
    entries, folders = [], set()
    for name, data in sorted(files.items()):
        if not name.startswith(prefix):
            continue
        above = name[len(prefix) :].split("/")[:-1]
        folders.update(prefix + "/".join(above[: depth + 1]) for depth in range(len(above)))
        if recursive or not above:
            entry = {"type": "file", "path": name, "size": len(data), "oid": blob_id(data)}
            if name.endswith(LARGE):
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
            entries.append(entry)
    listed = (path for path in sorted(folders) if recursive or "/" not in path[len(prefix) :])
    return [{"type": "directory", "path": path, "oid": "0" * 40} for path in listed] + entries


def byte_range(header: str | None, size: int) -> tuple[int, int]:
    """Return the first byte and the byte after the last one that a Range header requests."""
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if not found:
        return 0, size
    return int(found[1]), min(size, int(found[2]) + 1) if found[2] else size
