"""Stands in for `vllm` where its life is the point: tells its version, serves its pages, or fails to load.

The model chooses: `broken` fails as vLLM does. What its pages say of work is in `metrics.txt` of the replica's folder.
"""

import os
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    print("0.32.0+cpu")
    sys.exit(0)
flags = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=False))
print(f"serving {sys.argv[2]} with {' '.join(sys.argv[3:])}", flush=True)
if sys.argv[2] == "broken":
    print("(EngineCore pid=7) ValueError: the model has no weights", flush=True)
    print("RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(1)
metrics = Path(os.environ["FAKE_METRICS"])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.send_error(401)
            return
        body = {
            "/health": "",
            "/metrics": metrics.read_text() if metrics.exists() else "",
            "/v1/models": '{"data": [{"id": "fake", "max_model_len": 77}]}',
        }[self.path].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


while not metrics.exists():  # a test lets it finish loading
    time.sleep(0.02)
HTTPServer((flags["--host"], int(flags["--port"])), Handler).serve_forever()
