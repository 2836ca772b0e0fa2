"""A Hugging Face Hub on loopback: it speaks the HTTP of huggingface_hub 2.4 and keeps repositories as folders.

    python tests/loopback_hub.py ROOT [--port 0] [--die-after BYTES]

It prints one line, its URL and the access token of its only user, `learner`, and serves on 127.0.0.1 until its
standard input is closed, so that it does not outlive whoever started it.
ROOT/models/OWNER/NAME and ROOT/datasets/OWNER/NAME are repositories, as they stand on their branch `main`: a folder
put there by hand is one. What a folder cannot say (commits, former contents, who may read it) is in ROOT/.history.

It leaves out Xet (set HF_HUB_DISABLE_XET=1), Spaces, search, branches, pull requests, uploads in parts, and pushing
data sets, which it only serves.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import sys
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = {".arrow", ".bin", ".gz", ".h5", ".npy", ".onnx", ".parquet", ".pt", ".pth", ".safetensors", ".zip"}
LICENSES = set(
    "afl-3.0 agpl-3.0 apache-2.0 bsd-2-clause bsd-3-clause cc-by-4.0 cc-by-nc-4.0 cc-by-sa-4.0 cc0-1.0 "
    "gpl-3.0 lgpl-3.0 llama3 mit mpl-2.0 odc-by openrail other unknown unlicense".split()
)


class Refusal(Exception):
    """An answer that is an error: HTTP status, a sentence, and the Hub's word for it."""

    def __init__(self, status: int, sentence: str, code: str = "") -> None:
        super().__init__(sentence)
        self.status, self.code = status, code


def is_large(path: str, size: int) -> bool:
    """Say whether the Hub wants a file of `size` bytes by the large-file protocol (LFS) rather than in the commit."""
    return size > 10_000_000 or Path(path).suffix in LFS_SUFFIXES


def describe_file(path: Path) -> dict:
    """Return a file's size in bytes, its id (sha256 if it is kept by LFS, else git's sha1), and which of the two."""
    size = path.stat().st_size
    lfs = is_large(path.name, size)
    digest = hashlib.sha256() if lfs else hashlib.sha1(b"blob %d\0" % size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": size, "oid": digest.hexdigest(), "lfs": lfs}


def metadata(card: str) -> dict:
    """Return the YAML at the head of a README.md as a dictionary. Raises YAMLError or TypeError for anything else."""
    found = re.match(r"---\s*\n(.*?)\n---", card, flags=re.DOTALL)
    return dict(yaml.safe_load(found[1]) or {}) if found else {}


def problems_in_card(card: str) -> list[str]:
    """Return what the Hub would refuse in the metadata of a README.md. These are a few of its rules, not all."""
    try:
        data = metadata(card)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        return [f"the metadata is not YAML with names and values: {str(error).splitlines()[0]}"]
    problems = [] if data.get("license", "other") in LICENSES else ['"license" must be one of the Hub\'s list']
    languages = data.get("language") or []
    for language in [languages] if isinstance(languages, str) else languages:
        if not re.fullmatch(r"[a-z]{2,3}|code|multilingual", str(language)):
            problems.append(f'"language" must be ISO codes such as en, not {language!r}')
    needed = []
    for m, model in enumerate(data.get("model-index") or []):
        needed.append((f"model-index[{m}]", model, ["name", "results"]))
        for r, result in enumerate(model.get("results") or []):
            where = f"model-index[{m}].results[{r}]"
            needed.append((where, result, ["task", "dataset", "metrics"]))
            needed.append((f"{where}.task", result.get("task", {"type": 0}), ["type"]))
            needed.append((f"{where}.dataset", result.get("dataset", {"type": 0, "name": 0}), ["type", "name"]))
            metrics = enumerate(result.get("metrics") or [])
            needed += [(f"{where}.metrics[{i}]", metric, ["type", "value"]) for i, metric in metrics]
    return problems + [
        f'"{where}.{key}" is required' for where, part, keys in needed for key in keys if key not in part
    ]


class Repository:
    """A repository: a folder with what `main` holds, and beside it a folder of what each commit held."""

    lock = threading.Lock()

    def __init__(self, root: Path, kind: str, name: str) -> None:
        """`kind` is models or datasets; `name` is OWNER/NAME, or NAME alone for an old one."""
        self.folder, self.past = root / kind / name, root / ".history" / kind / name
        with self.lock:  # two requests may be the first
            if self.folder.is_dir() and not (self.past / "commits.json").exists():
                self.write("initial commit", name.split("/")[0], {}, start=self.folder)

    def commits(self) -> list[dict]:
        """Return the commits, the newest first."""
        return json.loads((self.past / "commits.json").read_text(encoding="utf-8"))

    def is_private(self) -> bool:
        """Say whether only its owner may read it."""
        return (self.past / "private").exists()

    def at(self, revision: str) -> tuple[dict, Path]:
        """Return the commit that `revision` names (main or an id) and the folder with its files."""
        for commit in self.commits():
            if revision == "main" or (len(revision) >= 7 and commit["id"].startswith(revision)):
                return commit, self.past / commit["id"]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def write(self, title: str, author: str, changes: dict, start: Path | None = None) -> dict:
        """Add a commit: for each changed path bytes, a file, or None if it is deleted. The caller holds the lock."""
        old = self.commits() if (self.past / "commits.json").exists() else []
        start, files = start or (self.past / old[0]["id"] if old else None), dict(old[0]["files"] if old else {})
        new = self.past / "unfinished"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(start, new, copy_function=os.link) if start else new.mkdir(parents=True)
        if not old:
            files = {path.relative_to(new).as_posix(): describe_file(path) for path in new.rglob("*") if path.is_file()}
        for path, content in changes.items():
            target = new / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # never write through a link: older commits share the file
            files.pop(path, None)
            if content is not None:
                os.link(content, target) if isinstance(content, Path) else target.write_bytes(content)
                files[path] = describe_file(target)
        date = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
        commit = {"title": title, "message": "", "date": date, "authors": [{"user": author}], "files": files}
        commit["id"] = hashlib.sha1(json.dumps([commit, len(old)]).encode()).hexdigest()
        new.rename(self.past / commit["id"])
        (self.past / "commits.new").write_text(json.dumps([commit, *old]), encoding="utf-8")
        (self.past / "commits.new").replace(self.past / "commits.json")  # from here on the commit is made
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.past / commit["id"], self.folder, copy_function=os.link)
        return commit


class Handler(BaseHTTPRequestHandler):
    """Answer one connection. The server has `root` (a folder), `users` (token to name), `die_after` (bytes or None)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two small packets: do not wait between them

    def log_message(self, *args) -> None:
        """Write no log: stderr belongs to whoever started the hub."""

    def do_GET(self) -> None:
        """Find the route and answer. A Refusal becomes the status, headers and JSON that the client reads."""
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        try:
            if self.command == "PUT":
                return self.receive(url.path.removeprefix("/.lfs/"))
            self.body = b"".join(self.blocks())
            for method, pattern, action in ROUTES:
                if found := method == self.command.replace("HEAD", "GET") and re.fullmatch(pattern, url.path):
                    return action(self, **{name: unquote(value or "") for name, value in found.groupdict().items()})
            raise Refusal(404, f"This hub does not speak {self.command} {url.path}")
        except Refusal as refusal:
            headers = {"X-Error-Message": str(refusal), **({"X-Error-Code": refusal.code} if refusal.code else {})}
            self.send(refusal.status, {"error": str(refusal)}, **headers)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def blocks(self):
        """Yield the body of the request in pieces."""
        left = int(self.headers.get("Content-Length", 0))
        while left > 0 and (block := self.rfile.read(min(left, 1 << 20))):
            left -= len(block)
            yield block

    def send(self, status: int, answer, **headers: str) -> None:
        """Send JSON."""
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(content), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def user(self, needed: bool = True) -> str | None:
        """Return the user whose token came with the request."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        if needed and not token:
            raise Refusal(401, "Invalid username or password.")
        return self.server.users.get(token)

    def repository(self, kind: str, name: str, to_write: bool = False) -> Repository:
        """Return a repository that this user may read, or write."""
        owner, user = name.split("/")[0], self.user(needed=to_write)
        repository = Repository(self.server.root, kind, name) if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) else None
        if not repository or not repository.folder.is_dir() or (repository.is_private() and user != owner):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if to_write and user != owner:
            raise Refusal(403, f"{user} has no right to write to {name}")
        return repository

    def who(self) -> None:
        """GET whoami: whose token is this?"""
        token = {"displayName": "loopback", "role": "write"}
        self.send(200, {"type": "user", "name": self.user(), "orgs": [], "auth": {"accessToken": token}})

    def wish(self) -> tuple[dict, str]:
        """Return a request to create or delete a model, and the OWNER/NAME in it."""
        wish = json.loads(self.body)
        return wish, f"{wish.get('organization') or self.user()}/{wish['name']}"

    def create(self) -> None:
        """POST a new model."""
        wish, name = self.wish()
        user = self.user()
        if not name.startswith(f"{user}/"):
            raise Refusal(403, f"You don't have the rights to create a repository under {name.split('/')[0]!r}")
        repository = Repository(self.server.root, "models", name)
        there = repository.folder.is_dir()
        if not there:
            with Repository.lock:
                repository.write("initial commit", user, {".gitattributes": b"*.safetensors filter=lfs -text\n"})
            if wish.get("visibility") == "private":
                (repository.past / "private").touch()
        answer = {"url": f"{self.server.url}/{name}", "name": name}
        self.send(409, answer | {"error": "You already created this repository"}) if there else self.send(200, answer)

    def delete(self) -> None:
        """DELETE a model."""
        repository = self.repository("models", self.wish()[1], to_write=True)
        shutil.rmtree(repository.past)
        shutil.rmtree(repository.folder)
        self.send(200, {})

    def validate(self) -> None:
        """POST the text of a README.md and be told what is wrong with its metadata."""
        errors = [{"message": problem} for problem in problems_in_card(json.loads(self.body)["content"])]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        """GET what is known of a repository."""
        repository = self.repository(kind, name)
        commit, folder = repository.at(revision)
        card = folder / "README.md"
        data = metadata(card.read_text(encoding="utf-8")) if card.exists() else {}
        tags = [*(data.get("tags") or []), *([f"license:{data['license']}"] if "license" in data else [])]
        answer = {"id": name, "author": name.split("/")[0], "sha": commit["id"], "private": repository.is_private()}
        answer |= {"lastModified": commit["date"], "cardData": data, "tags": tags, "gated": False, "disabled": False}
        self.send(200, {**answer, "siblings": [{"rfilename": path} for path in sorted(commit["files"])]})

    def history(self, kind: str, name: str, revision: str) -> None:
        """GET the commits up to a revision."""
        commits = self.repository(kind, name).commits()
        start = next((i for i, commit in enumerate(commits) if commit["id"].startswith(revision)), 0)
        self.send(200, [{key: commit[key] for key in commit if key != "files"} for commit in commits[start:]])

    def listed(self, files: dict[str, dict]) -> list[dict]:
        """Return files and their folders in the Hub's form."""
        rows = []
        for path in sorted({p.as_posix() for file in files for p in Path(file).parents if p != Path(".")}):
            rows.append({"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()})
        for path, file in sorted(files.items()):
            row = {"type": "file", "path": path, "size": file["size"], "oid": file["oid"]}
            if file["lfs"]:
                pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n"
                pointer %= (file["oid"].encode(), file["size"])
                row["oid"] = hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()
                row["lfs"] = {"oid": file["oid"], "size": file["size"], "pointerSize": len(pointer)}
            rows.append(row)
        return rows

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        """GET the files and folders in a folder, with all below it if asked."""
        rows = self.listed(self.repository(kind, name).at(revision)[0]["files"])
        inside = [row for row in rows if not path or row["path"].startswith(path + "/")]
        if path and not inside:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() == "true"
        self.send(200, [row for row in inside if deep or "/" not in row["path"].removeprefix(path).lstrip("/")])

    def preupload(self, kind: str, name: str, revision: str) -> None:
        """POST names and sizes of new files, and be told how each is to be sent, and what is there already."""
        there = self.repository(kind, name, to_write=True).at(revision)[0]["files"]
        files = json.loads(self.body)["files"]
        for file in files:
            del file["sample"]
            file |= {"uploadMode": "lfs" if is_large(file["path"], file["size"]) else "regular", "shouldIgnore": False}
            file |= {"oid": there[file["path"]]["oid"]} if file["path"] in there else {}
        self.send(200, {"files": files})

    def lfs_batch(self, kind: str, name: str) -> None:
        """POST sha256 and size of large files, and be told where to PUT those that the hub does not have."""
        self.repository(kind.rstrip("/") or "models", name, to_write=True)
        objects = [{"oid": file["oid"], "size": file["size"]} for file in json.loads(self.body)["objects"]]
        for file in objects:
            if not (self.server.root / ".lfs" / file["oid"]).exists():
                file["actions"] = {"upload": {"href": f"{self.server.url}/.lfs/{file['oid']}"}}
        self.send(200, {"transfer": "basic", "objects": objects})

    def receive(self, oid: str) -> None:
        """PUT a large file. It is kept under its name only when all of it is there and its sha256 is right."""
        store, digest = self.server.root / ".lfs", hashlib.sha256()
        store.mkdir(exist_ok=True)
        unfinished = store / f"unfinished-{secrets.token_hex(8)}"
        with unfinished.open("wb") as file:
            for block in self.blocks():
                digest.update(block)
                file.write(block)
                self.server.received += len(block)
                if self.server.die_after is not None and self.server.received > self.server.die_after:
                    os._exit(137)  # as after SIGKILL: no answer, no cleaning up
        if digest.hexdigest() != oid:
            unfinished.unlink()
            raise Refusal(400, "The content does not have the announced sha256")
        unfinished.replace(store / oid)
        self.send(200, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        """POST a commit: one JSON object a line, first the title, then an operation on a file each."""
        repository, user, title, changes = self.repository(kind, name, to_write=True), self.user(), "", {}
        there = repository.at(revision)[0]["files"]
        for line in self.body.splitlines():
            key, value = (operation := json.loads(line))["key"], operation["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                changes[value["path"]] = self.server.root / ".lfs" / Path(value["oid"]).name
                if not changes[value["path"]].exists():
                    raise Refusal(400, f"The content of {value['path']} was not uploaded")
            else:  # deletedFile, deletedFolder
                inside = value["path"].rstrip("/") + "/"
                changes |= {path: None for path in there if path == value["path"] or path.startswith(inside)}
        if any(Path(path).is_absolute() or ".." in Path(path).parts for path in changes):
            raise Refusal(400, "A path leads out of the repository")
        with Repository.lock:
            commit = repository.write(title, user, changes)
        self.send(200, {"commitUrl": f"{self.server.url}/{name}/commit/{commit['id']}", "commitOid": commit["id"]})

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        """GET or HEAD a file, whole or from a byte on (Range), so that a download can be taken up again."""
        commit, folder = self.repository(kind.rstrip("/") or "models", name).at(revision)
        if path not in commit["files"]:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound")
        size, oid = commit["files"][path]["size"], commit["files"][path]["oid"]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(asked[1]), min(int(asked[2] or size), size - 1)) if asked else (0, size - 1)
        self.send_response(206 if asked else 200)
        for header, value in {"ETag": f'"{oid}"', "X-Repo-Commit": commit["id"], "Accept-Ranges": "bytes"}.items():
            self.send_header(header, value)
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command == "GET":
            with (folder / path).open("rb") as file:
                file.seek(first)
                left = last - first + 1
                while left and (block := file.read(min(left, 1 << 20))):
                    self.wfile.write(block)
                    left -= len(block)


API = r"/api/(?P<kind>models|datasets)"
REPO, REV, PATH = r"/(?P<name>[^/]+(?:/[^/]+)?)", r"/(?P<revision>[^/]+)", r"/(?P<path>.+)"
WEB = r"/(?P<kind>datasets/|)(?P<name>[^/]+(?:/[^/]+)?)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.who),
    ("POST", "/api/repos/create", Handler.create),
    ("DELETE", "/api/repos/delete", Handler.delete),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", API + REPO + "/preupload" + REV, Handler.preupload),
    ("POST", API + REPO + "/commit" + REV, Handler.commit),
    ("GET", API + REPO + "/commits" + REV, Handler.history),
    ("GET", API + REPO + "/tree" + REV + f"(?:{PATH})?", Handler.tree),
    ("GET", API + REPO + "/revision" + REV, Handler.info),
    ("GET", API + REPO, Handler.info),
    ("POST", WEB + r"\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("GET", WEB + "/resolve" + REV + PATH, Handler.resolve),
]


class Server(ThreadingHTTPServer):
    """A server that says nothing of a client that hung up before its answer."""

    def handle_error(self, request, client_address) -> None:
        """Print the traceback of what a handler raised, unless the client is gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def make_hub(root: Path, port: int = 0, die_after: int | None = None, handler=Handler):
    """Return a server for the repositories under `root`. Its one user's token is kept there, for a restart."""
    root.mkdir(parents=True, exist_ok=True)
    kept = root / ".token"
    if not kept.exists():
        kept.write_text("hf_" + secrets.token_hex(16), encoding="utf-8")
    hub = Server(("127.0.0.1", port), handler)
    hub.root, hub.token, hub.die_after, hub.received = root, kept.read_text(encoding="utf-8"), die_after, 0
    hub.url, hub.users = f"http://127.0.0.1:{hub.server_port}", {hub.token: "learner"}
    return hub


def main() -> int:
    """Serve until standard input is closed; return 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="folder of the repositories")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--die-after", type=int, help="die in the middle of an upload, after so many bytes")
    args = parser.parse_args()
    hub = make_hub(args.root, args.port, args.die_after)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    print(hub.url, hub.token, flush=True)
    if not sys.stdin.isatty():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupting a notebook reaches its child processes too
    sys.stdin.read()  # returns when whoever started the hub closes the pipe, or ends
    return 0


if __name__ == "__main__":
    sys.exit(main())
