"""Upload through the hub's own client, to a server on this machine that speaks as the hub does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from exported_runs import tiny_run
from huggingface_hub import HfApi, constants

from dpo_lab.ui.export import export_run as module
from dpo_lab.ui.export.export_run import export_run
from dpo_lab.ui.export.push import check_base, check_push, push_export

pytestmark = pytest.mark.usefixtures("one_thread")
TOKEN = "hf_of_the_test"


class Hub(BaseHTTPRequestHandler):
    """Notes every request; takes what has the token."""

    def do_GET(self):
        self.answer(b"")

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("content-length") or 0)))

    def answer(self, body):
        self.server.seen.append((self.path, body))
        known = self.headers.get("authorization") == f"Bearer {TOKEN}"
        said = {}
        if self.path.endswith("/repos/create"):
            said = {"url": f"{self.server.address}/me/mine"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            said = {"files": [one | {"uploadMode": "regular"} for one in files]}
            said["files"] = [one | {"shouldIgnore": False} for one in said["files"]]
        elif "/commit/" in self.path:
            said = {"commitUrl": f"{self.server.address}/me/mine/commit/1", "commitOid": "1"}
        text = json.dumps(said).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.address = [], f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_folder_is_uploaded_in_one_commit_to_a_private_repository(hub, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# mine\n")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    api = HfApi(endpoint=hub.address, token=TOKEN)
    check_push("me/mine", api)
    address = push_export(tmp_path, "me/mine", api=api)
    assert address == f"{hub.address}/me/mine"
    by_path = {path.split("/")[-1].split("?")[0]: body for path, body in hub.seen}
    assert json.loads(by_path["create"])["visibility"] == "private"
    (commit,) = [body for path, body in hub.seen if "/commit/" in path]
    written = [json.loads(line)["value"] for line in commit.splitlines()[1:]]
    assert {one["path"] for one in written} == {"README.md", "model.safetensors"}
    hub.seen.clear()
    push_export(tmp_path, "me/mine", public=True, api=api)
    created = next(body for path, body in hub.seen if path.endswith("create"))
    assert json.loads(created).get("visibility", "public") == "public"


def test_what_the_hub_refuses_is_said_before_and_after(hub, tmp_path):
    wrong = HfApi(endpoint=hub.address, token="hf_wrong")
    with pytest.raises(ValueError, match=r"gives no access.*hf auth login"):
        check_push("me/mine", wrong)
    with pytest.raises(ValueError, match="does not take it.*is whole; upload it with 'hf upload"):
        push_export(tmp_path, "me/mine", api=wrong)
    for name in ("mine", "me/mine/too", "me/my model"):
        with pytest.raises(ValueError, match="no name of a repository.*owner/name"):
            check_push(name, wrong)


def test_nothing_is_written_if_it_could_not_be_uploaded(tmp_path, monkeypatch):
    run = tiny_run(tmp_path, lora_rank=2)
    with pytest.raises(ValueError, match="base is a folder of this machine.*--merge"):
        export_run(run, tmp_path / "out", push="me/mine")
    with pytest.raises(ValueError, match="gives no access"):  # offline, as all tests are
        export_run(run, tmp_path / "out", merge=True, push="me/mine")
    assert not (tmp_path / "out").exists()
    check_base(None), check_base("owner/base")
    pushed = []
    monkeypatch.setattr(module, "check_push", lambda repo: None)
    monkeypatch.setattr(
        module, "push_export", lambda folder, repo, public: pushed.append(folder) or "there"
    )
    done = export_run(run, tmp_path / "out", merge=True, push="me/mine", probes=4, device="cpu")
    assert pushed == [tmp_path / "out"] and done.address == "there"
