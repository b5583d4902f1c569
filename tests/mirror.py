"""A server on this machine that answers for every publisher, as PNDM_MIRROR does."""

import contextlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

QUOTA = b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head></html>"


class Handler(BaseHTTPRequestHandler):
    """Serve `server.files` by host and path, from the requested byte on."""

    def do_GET(self):
        server = self.server
        content = server.files.get(self.path.lstrip("/"))
        server.asked.append(self.path.lstrip("/"))
        if content is None:
            return self.send_error(404)
        content = content.read_bytes() if isinstance(content, Path) else content
        range_ = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(range_[1]) if range_ else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            for at in range(start, len(content), server.chunk):
                self.wfile.write(content[at : at + server.chunk])
                server.pause()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(files):
    """A server of these files (bytes or paths, by host and path) while the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = files, []
        server.chunk, server.pause = 1 << 20, lambda: None
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
