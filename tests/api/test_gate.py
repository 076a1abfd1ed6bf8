"""Who may come in, on real servers: hosts, rate limit, proxies; and nothing is reported."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from tests.conftest import ROOT, Server, StartServer

ASK = """
import os
import service
import uvicorn
from bentoml._internal.utils.analytics.usage_stats import do_not_track
print(do_not_track(), repr(uvicorn.Config(lambda: None).forwarded_allow_ips))
"""


def test_a_page_that_was_rebound_to_this_machine_cannot_speak(server: Server) -> None:
    rebound = {"Host": "evil.example:8188", "Origin": "http://evil.example:8188"}
    for route in ("/tts", "/stream-tts", "/v1/audio/speech"):
        answer = httpx.post(server.base_url + route, json={"text": "да"}, headers=rebound)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "host_not_allowed")
    proxied = {"Host": "tts.example.com", "Origin": "https://tts.example.com"}
    url = f"{server.base_url}/tts"
    assert httpx.post(url, json={"text": "да"}, headers=proxied).status_code == 200


def test_each_client_behind_a_trusted_proxy_has_its_own_rate_limit(
    start_server: StartServer, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("anna\n")
    settings = {"RATE_LIMIT": "2/hour", "FORWARDED_ALLOW_IPS": "127.0.0.1"}
    with start_server(API_KEYS_FILE=str(keys), **settings) as server:

        def ask(address: str, key: str = "wrong") -> httpx.Response:
            headers = {"X-Forwarded-For": address, "Authorization": f"Bearer {key}"}
            return httpx.post(f"{server.base_url}/tts", json={"text": "да"}, headers=headers)

        codes = [ask(address).status_code for address in ["203.0.113.1"] * 3 + ["203.0.113.2"]]
        assert codes == [401, 401, 429, 401]
        assert ask("203.0.113.1", "anna").status_code == 200
        keys.write_text("anna\nboris\n")
        assert [ask("203.0.113.1", "boris").status_code for _ in range(3)] == [200, 200, 429]
        refused = ask("203.0.113.1")
        assert refused.json()["error"]["code"] == "rate_limited"
        assert 1 <= int(refused.headers["retry-after"]) <= 3600
        for path in ("/readyz", "/livez", "/health", "/metrics", "/", "/playground/"):
            assert httpx.get(server.base_url + path).status_code == 200, path
        assert "boris" not in server.log.read_text()


def test_by_default_nothing_is_reported_and_no_proxy_is_believed() -> None:
    unset = ("BENTOML_DO_NOT_TRACK", "FORWARDED_ALLOW_IPS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-c", ASK]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert said.stdout == "True ''\n", said.stderr
