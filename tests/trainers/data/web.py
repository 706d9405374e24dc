"""A web server for tests, on a thread: it gives files out, and fails where a test asks it to."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web:
    """Files by name, and what was asked for.

    Attributes:
        url: without a slash at its end.
        asked: names, and the Range header or None, in their order.
        cuts: for each of the next answers after how many bytes the connection ends.
        ranges: whether parts of files are given out.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.ranges = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.removeprefix("/")
                wanted = self.headers["Range"]
                web.asked.append((name, wanted))
                if name not in web.files:
                    self.send_error(404)
                    return
                data = web.files[name]
                begin = 0
                if wanted and web.ranges:
                    found = re.fullmatch(r"bytes=(\d+)-", wanted)
                    assert found
                    begin = int(found[1])
                    if begin >= len(data):
                        self.send_error(416)
                        return
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                else:
                    self.send_response(200)
                rest = data[begin:]
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: web.cuts.pop(0) if web.cuts else None])

            def log_message(self, *_: object) -> None:
                pass

        return Handler
