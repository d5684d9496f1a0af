"""The page on which people review texts; only this machine can open it, and it needs no other files."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from crab_lightning.builder.review.store import ReviewStore, ReviewVerdict, kappas, rates
from crab_lightning.templates import render

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1", "testserver")


def make_app(store: ReviewStore) -> FastAPI:
    """Return the web application of a review.

    Args:
        store: Sample and decisions of the review.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    items = store.items()

    @app.middleware("http")
    async def only_this_machine(request: Request, call_next):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        host = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
        origin = request.headers.get("origin")
        from_here = origin is None or (urlsplit(origin).hostname or "") in _LOOPBACK
        if host not in _LOOPBACK or not from_here:
            return JSONResponse({"error": "this page is for this machine only"}, 403)
        return await call_next(request)

    def page(template: str, **values: object) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = render(f"builder/review/{template}", nonce=nonce, **values)
        mine = f"'nonce-{nonce}'"
        policy = f"default-src 'self'; script-src {mine}; style-src {mine}; frame-ancestors 'none'"
        return HTMLResponse(text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})

    @app.get("/")
    def show(name: str = "", item: int = -1) -> Response:
        said = {number: v for (number, who), v in store.verdicts().items() if who == name}
        waiting = [number for number in range(len(items)) if number not in said]
        number = item if 0 <= item < len(items) else (waiting[0] if waiting else -1)
        return page(
            "review.html.j2",
            name=name.strip(),
            number=number,
            item=items[number] if number >= 0 else None,
            verdict=said.get(number),
            done=len(said),
            total=len(items),
        )

    @app.get("/summary")
    def summary() -> Response:
        said = list(store.verdicts().values())
        return page("summary.html.j2", rates=rates(items, said), kappas=kappas(said))

    @app.get("/media/{number}/{kind}/{place}")
    def media(number: int, kind: str, place: int) -> Response:
        files = getattr(items[number], kind) if 0 <= number < len(items) and kind in _MEDIA else ()
        if not 0 <= place < len(files):
            return JSONResponse({"error": "there is no such file in the sample"}, 404)
        return FileResponse(files[place], headers={"X-Content-Type-Options": "nosniff"})

    @app.post("/verdict")
    async def verdict(request: Request) -> Response:
        try:
            told = await request.json()
            store.add(ReviewVerdict(int(told["item"]), *(str(told[key]) for key in _TOLD)))
        except (ValueError, KeyError, TypeError) as err:
            return JSONResponse({"error": str(err)}, 422)
        return JSONResponse({})

    @app.post("/undo")
    async def undo(request: Request) -> Response:
        told = await request.json()
        return JSONResponse({"item": store.undo(str(told["reviewer"]))})

    return app


_MEDIA = ("videos", "images", "audios")
_TOLD = ("reviewer", "kind", "text", "note")
