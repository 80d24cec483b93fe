"""Labels two rounds with a real Label Studio server on this machine.

    python -m venv ls && ls/bin/pip install label-studio
    python -m benchmarks.label_studio --executable ls/bin/label-studio

This creates a folder of digits, queries with `fkjax label`, starts the server on
127.0.0.1 with all its files in a temporary folder, imports the tasks that fkjax wrote,
annotates them by the API, and continues with the exports: that of the first round as
JSON, that of both rounds as JSON-MIN. Each step is printed; the first failure raises an
error.
"""

import argparse
import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import fkjax.commands.label
from fkjax.data import datasets
from fkjax.labeling.answers import CANNOT_TELL
from fkjax.labeling.label_studio import read_export

TOKEN = "fkjax-benchmark-token-of-loopback"
BUDGET, ROUNDS = 6, 2
NAMES = ("zero", "one", "two")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--executable", required=True, help="path of label-studio in its environment"
    )
    executable = parser.parse_args().executable
    with tempfile.TemporaryDirectory(prefix="fkjax-label-studio-") as home:
        _check(executable, Path(home))


def _check(executable: str, home: Path) -> None:
    truth = _make_images(home)
    out = home / "out"
    _run(home, out)
    with _serving(executable, home) as url:
        server = _Server(url)
        version = server.get("/api/version")
        print(f"Label Studio {version['release']} answers at {url}")
        _import_embedded(server, _project(server, out), home, out)
        project = _project(server, out)
        print(f"imported config.xml: project {project}")
        server.post(
            "/api/storages/localfiles",
            {
                "project": project,
                "path": str(home / "my images"),
                "use_blob_urls": True,
                "title": "images",
            },
        )
        for number in range(1, ROUNDS + 1):
            kind = ("JSON", "JSON_MIN")[number - 1]
            _label_round(server, project, number, out, truth, kind)
            _run(home, out)
            _require_taken(out, number, truth)


def _make_images(home: Path) -> dict[str, str]:
    """Writes digits and labels.csv; returns the true classes."""
    digits = datasets.load("digits")
    truth, rows = {}, ["file,label"]
    for c, name in enumerate(NAMES):
        for i, at in enumerate(np.flatnonzero(digits.train_labels == c)[:16]):
            file = f"{'ab'[i % 2]}/größe {at}.png"
            path = home / "my images" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.train_images[at, ..., 0]).save(path)
            truth[file] = name
            rows += [f"{file},{name}"] if i < 4 else []
    (home / "labels.csv").write_text("\n".join(rows) + "\n")
    return truth


def _project(server: "_Server", out: Path) -> int:
    interface = (out / "label_studio" / "config.xml").read_text()
    return server.post("/api/projects", {"title": "fkjax", "label_config": interface})[
        "id"
    ]


def _import_embedded(server: "_Server", project: int, home: Path, out: Path) -> None:
    """Imports tasks with embedded images, then writes the usual tasks again."""
    _run(home, out, "--label-studio", "embedded")
    tasks = json.loads((out / "label_studio" / "tasks.json").read_text())
    server.post(f"/api/projects/{project}/import", tasks)
    there = _tasks(server, project)
    found = {task["data"]["file"]: task["data"]["image"] for task in there}
    wanted = {task["data"]["file"]: task["data"]["image"] for task in tasks}
    assert found == wanted and all(i.startswith("data:") for i in found.values())
    print(f"imported {len(found)} tasks with embedded images, returned unchanged")
    _run(home, out)


def _tasks(server: "_Server", project: int) -> list[dict[str, Any]]:
    query = {"project": project, "page_size": 1000, "fields": "all"}
    return server.get(f"/api/tasks?{urllib.parse.urlencode(query)}")["tasks"]


def _run(home: Path, out: Path, *more: str) -> None:
    argv = f"--image-size 8 --budget {BUDGET} --rounds {ROUNDS} --epochs 2"
    argv += " --pretraining none --images"
    places = [str(home / "my images"), "--labels", str(home / "labels.csv")]
    places += ["--output-dir", str(out), *more]
    print("$ fkjax label", argv, *places)
    status = fkjax.commands.label.main([*argv.split(), *places])
    assert status == 0, f"status {status}"


class _Server:
    """A client of the API of Label Studio."""

    def __init__(self, url: str):
        self._url = url

    def get(self, path: str) -> Any:
        return json.loads(self.fetch(path)[1])

    def post(self, path: str, value: Any) -> Any:
        return json.loads(self.fetch(path, json.dumps(value).encode())[1])

    def fetch(self, path: str, data: bytes | None = None, token: str = TOKEN) -> Any:
        """Returns the status, the body and the content type of a response."""
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Token {token}"} if token else {}
        asked = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(asked, timeout=120) as answer:
                return answer.status, answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            if token:
                raise SystemExit(
                    f"{path}: {error.code} {error.read()[:2000].decode()}"
                ) from error
            return error.code, b"", ""


def _label_round(
    server: _Server,
    project: int,
    number: int,
    out: Path,
    truth: dict[str, str],
    kind: str,
) -> None:
    """Imports, checks, annotates and exports the tasks of a round."""
    tasks = json.loads((out / "label_studio" / "tasks.json").read_text())
    imported = server.post(f"/api/projects/{project}/import", tasks)
    print(
        f"round {number}: imported tasks.json, {imported['task_count']} tasks with "
        f"{imported['prediction_count']} predictions"
    )
    assert imported["task_count"] == imported["prediction_count"] == len(tasks)
    there = _tasks(server, project)
    mine = [task for task in there if task["data"]["round"] == number]
    assert len(mine) == len(tasks), len(mine)
    for place, task in enumerate(mine):
        file, image = task["data"]["file"], task["data"]["image"]
        (guess,) = task["predictions"]
        value = guess["result"][0]["value"]["choices"]
        status, body, content = server.fetch(image)
        assert body == (out.parent / "my images" / file).read_bytes(), file
        refused = server.fetch(image, token="")[0]
        print(
            f"  {file}: {guess['model_version']} predicts {value} with score "
            f"{guess['score']:.3f}; GET {image} returns {status}, {content}, the bytes "
            f"of the file ({refused} without the token)"
        )
        assert status == 200 and refused in (401, 403)
        choice = CANNOT_TELL if place == 0 else truth[file]
        result = {"from_name": "label", "to_name": "image", "type": "choices"}
        server.post(
            f"/api/tasks/{task['id']}/annotations/",
            {"result": [result | {"value": {"choices": [choice]}}]},
        )
    path = f"/api/projects/{project}/export?exportType={kind}"
    export = out / "label_studio" / "export.json"
    export.write_bytes(server.fetch(path)[1])
    print(
        f"  annotated; the export as {kind} has {len(read_export(export))} answers, "
        "of which one of this round is can't tell"
    )


def _require_taken(out: Path, number: int, truth: dict[str, str]) -> None:
    with (out / "answers.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["round"] == str(number)]
    unknown = [row for row in rows if row["label"] == CANNOT_TELL]
    assert len(rows) == BUDGET and len(unknown) == 1, rows
    assert all(truth[r["file"]] == r["label"] for r in rows if r not in unknown), rows
    print(f"round {number}: fkjax read {len(rows)} answers, all of them correctly")


@contextlib.contextmanager
def _serving(executable: str, home: Path) -> Iterator[str]:
    """Runs a server on a free port until the end of the context."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(home),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "HOME": str(home),
    }
    command = [executable, "start", "--no-browser", "--internal-host", "127.0.0.1"]
    command += ["--port", str(port), "--data-dir", str(home / "data")]
    command += ["--username", "fkjax@example.com", "--password", TOKEN]
    command += ["--user-token", TOKEN, "--enable-legacy-api-token"]
    url = f"http://127.0.0.1:{port}"
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            _wait(url, process, home / "server.log")
            yield url
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # only the group of the server
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(1)
        if process.poll() is not None:
            break
    raise SystemExit(f"Label Studio did not start:\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
    main()
