"""The near-free store: Debian's nginx with Lua (stub.lua), on a free port of 127.0.0.1.

It costs next to nothing, so what is measured against it is the client. It keeps no content; what it was asked
is counted, which tells a client that has done its work from one that only ended.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from benchmarks.stores import free_port

NGINX = "/usr/sbin/nginx"
MODULES = "/usr/lib/nginx/modules"
LUA = Path(__file__).with_name("stub.lua")
_READY_SECONDS = 10.0


def is_installed() -> bool:
    return os.path.exists(NGINX) and os.path.exists(f"{MODULES}/ngx_http_lua_module.so")


class Stub:
    """Started by `with`. `counts` since the last `reset`: PUT, PART, LIST, HEAD and more;
    BYTES of whole bodies, READ with those of broken ones, KEYS listed."""

    access_key, secret_key = "AKIDSTUB", "secret-of-the-stub"

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder = folder
        self.port = free_port()
        self.workers = workers
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Stub:
        if not is_installed():
            raise SystemExit(
                "the stub needs Debian's nginx and libnginx-mod-http-lua: make bench as root installs them"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        configuration = self.folder / "nginx.conf"
        configuration.write_text(self._configuration())
        command = [NGINX, "-p", str(self.folder), "-c", str(configuration)]
        with (self.folder / "out.log").open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            with contextlib.suppress(OSError):
                self.counts()
                return self
            if time.monotonic() > deadline or self._process.poll() is not None:
                self._process.kill()
                log = (self.folder / "out.log").read_text() + self._errors()
                raise SystemExit(f"the stub does not start:\n{log}")
            time.sleep(0.02)

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def counts(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads(self._ask("GET"))
        return counts

    def reset(self) -> None:
        self._ask("DELETE")

    def _ask(self, method: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, "/-/counts")
            return connection.getresponse().read()
        finally:
            connection.close()

    def _errors(self) -> str:
        log = self.folder / "error.log"
        return log.read_text() if log.exists() else ""

    def _configuration(self) -> str:
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        return f"""daemon off; {user} worker_processes {self.workers}; pid {self.folder}/pid;
error_log {self.folder}/error.log warn;
load_module {MODULES}/ndk_http_module.so; load_module {MODULES}/ngx_http_lua_module.so;
events {{ worker_connections 2048; }}
http {{
access_log off; keepalive_timeout 600s; keepalive_requests 100000000; tcp_nodelay on;
client_max_body_size 0; client_body_buffer_size 1m; large_client_header_buffers 8 32k;
{temporary}lua_package_path "{LUA.parent}/?.lua;;";
lua_shared_dict counts 1m; lua_shared_dict state 32m;
{"".join(f"lua_shared_dict kept{number} 32m; " for number in range(32))}
server {{ listen 127.0.0.1:{self.port} backlog=4096; merge_slashes off;
location / {{ content_by_lua_block {{ require("stub").handle() }} }} }}
}}
"""
