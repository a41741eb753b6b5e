"""A process that a launcher can start where the model is not the point: answers /health, obeys or ignores SIGTERM.

What it says is in `health.json` beside its configuration, read at each request; the model's name chooses the rest:
`crash` ends at once with code 1, `broken` with 3 and a reason, `foreign` with 3 and code that it may not run; `mute`
never answers, `stubborn` ignores SIGTERM.
"""

import json
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

config_file = Path(sys.argv[sys.argv.index("--config") + 1])
config = json.loads(config_file.read_text())
health_file = config_file.with_name("health.json")
print(f"fake worker for {config['model']}", flush=True)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers["Authorization"] != f"Bearer {config['token']}":
            self.send_error(401)
            return
        health = json.loads(health_file.read_text()) if health_file.exists() else {"status": "loading"}
        body = json.dumps(health).encode()
        self.send_response(200 if health["status"] == "ready" else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


if config["model"] == "crash":
    sys.exit("it was not to be")
if config["model"] == "broken":
    print("The model could not be loaded: it has no weights.", flush=True)
    sys.exit(3)
if config["model"] == "foreign":
    print('unapproved code: {"sha256": "5a", "files": [{"path": "a.py", "sha256": "5b", "num_bytes": 1}]}', flush=True)
    print("The model could not be loaded: it brings its own code.", flush=True)
    sys.exit(3)
if config["model"] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listener = socket.socket(fileno=config["fd"])
if config["model"] == "mute":
    threading.Event().wait()
server = HTTPServer(listener.getsockname(), Handler, bind_and_activate=False)
server.socket.close()
server.socket = listener
print("serving", flush=True)
server.serve_forever()
