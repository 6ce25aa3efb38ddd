"""The web page at `/`: the built files of analytics_server/web/, and a friendly line where there are none.

The files are public: they hold no data. Cross-origin isolation is on, so that the page's encoder may use threads, and
the content policy lets nothing in from elsewhere: the page works offline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from aiohttp import web

WEB_FOLDER: Final = Path(__file__).parent / "web"

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
        "img-src 'self' blob: data:; "
        "media-src 'self' blob:; style-src 'self' 'unsafe-inline'; connect-src 'self' ws: wss: blob: data:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TYPES: Final = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".jpg": "image/jpeg",
    ".woff2": "font/woff2",
}
_ABSENT: Final = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>FrankenStream</title>
<style>body{font:1.1rem/1.5 system-ui;max-width:40rem;margin:15vh auto;padding:0 1rem}</style>
<h1>FrankenStream</h1><p>This server answers frames, but this installation has no web page:
it comes with the built package, or with <code>npm run build</code> in <code>web/</code> of a checkout.</p>
<p>An edge connects with <code>frankenstream edge --server ws://HOST:PORT</code>.</p></html>
"""


def is_page(method: str, path: str) -> bool:
    """Whether a request asks for the page and its files, which need no token."""
    return method in ("GET", "HEAD") and not path.startswith("/api/") and path != "/metrics"


class Page:
    """Serves the files of `folder`."""

    def __init__(self, folder: Path = WEB_FOLDER) -> None:
        self._folder = folder.resolve()

    def table(self) -> list[web.RouteDef]:
        """For `Application.add_routes`, after all others."""
        return [web.get("/", self._index), web.get("/{path:.+}", self._file)]

    async def _index(self, request: web.Request) -> web.StreamResponse:
        return self._send("index.html") or web.Response(text=_ABSENT, content_type="text/html", headers=_HEADERS)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if path.startswith("api/"):
            return web.json_response({"error": f"no such address: /{path[:200]}"}, status=404)
        return self._send(path) or web.Response(status=404, text="no such file\n", headers=_HEADERS)

    def _send(self, path: str) -> web.StreamResponse | None:
        """The file at `path` in the folder, or None. Nothing outside the folder, whatever the path says."""
        try:
            file = (self._folder / path).resolve()
            if not file.is_relative_to(self._folder) or not file.is_file():
                return None
        except (OSError, ValueError):  # A name that is too long; a null byte.
            return None
        # Vite puts a hash of the content into the names below assets/.
        kept = "public, max-age=31536000, immutable" if file.is_relative_to(self._folder / "assets") else "no-cache"
        headers = {**_HEADERS, "Cache-Control": kept}
        headers["Content-Type"] = _TYPES.get(file.suffix.lower(), "application/octet-stream")
        return web.FileResponse(file, headers=headers)
