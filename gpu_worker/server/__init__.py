"""The worker process around an engine: sockets, requests, load and stop. It computes nothing itself."""
