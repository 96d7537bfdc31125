"""`push_to_hub` and `from_pretrained("owner/name")` by huggingface_hub's own client, against a small server of its API."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import yaml
from safetensors.torch import load

COMMIT = "c" * 40
CLIENT = """
import sys, pandas as pd
from healnet.training import TrainedModel
folder, table, output = sys.argv[1:]
print(TrainedModel.load(folder).push_to_hub("me/my_model", token="hf_test"))
loaded = TrainedModel.load("me/my_model")
loaded.predict(pd.read_csv(table, index_col=0)).to_csv(output)
"""


class Hub(BaseHTTPRequestHandler):
    """The endpoints of the Hub that an upload and a download of small files need."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        address, hub = f"http://127.0.0.1:{self.server.server_port}", self.server
        assert self.headers["Authorization"] == "Bearer hf_test"
        if self.path == "/api/repos/create":
            assert json.loads(content) == {"name": "my_model", "organization": "me"}
            self.answer({"url": f"{address}/me/my_model"})
        elif self.path == "/api/validate-yaml":
            hub.card = yaml.safe_load(json.loads(content)["content"].split("---")[1])
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/models/me/my_model/preupload/main":
            paths = [file["path"] for file in json.loads(content)["files"]]
            plain = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": path, **plain} for path in paths]})
        elif self.path == "/api/models/me/my_model/commit/main":
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitOid": COMMIT, "commitUrl": f"{address}/me/my_model/commit/{COMMIT}"})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        content = self.server.files.get(self.path.removeprefix("/me/my_model/resolve/main/"))
        if content is None:
            self.answer({"error": self.path}, 404)
        else:
            digest = hashlib.sha256(content).hexdigest()
            self.answer(content, headers={"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, content, status=200, headers=None):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.card = {}, None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_model_that_was_pushed_predicts_what_it_did(trained, new_tables, tmp_path, hub):
    trained.save(tmp_path / "model", data="50 made patients")
    table = pd.concat([t.add_prefix(f"{name}:") for name, t in new_tables.items()], axis=1)
    table.to_csv(tmp_path / "table.csv")
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "NO_PROXY": "127.0.0.1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    paths = [tmp_path / "model", tmp_path / "table.csv", tmp_path / "risks.csv"]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *map(str, paths)],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"/me/my_model/commit/{COMMIT}")
    # What was uploaded is the saved folder, byte for byte, and none of it is a pickle.
    assert set(hub.files) == {"README.md", "config.json", "model.safetensors"}
    for name, content in hub.files.items():
        assert content == (tmp_path / "model" / name).read_bytes(), name
    assert json.loads(hub.files["config.json"])["healnet"]["modalities"] == ["clinical", "rna"]
    assert load(hub.files["model.safetensors"])["0.latents"].shape == trained.models[0].latents.shape
    assert hub.card == {"library_name": "healnet", "tags": ["healnet", "multimodal", "survival-analysis"]}
    found = pd.read_csv(tmp_path / "risks.csv", index_col="patient")
    np.testing.assert_allclose(found["risk"], trained.predict(new_tables), atol=1e-6)
