"""The file of a clip, where it is not what its run says."""

import asyncio
import mimetypes
from pathlib import Path

import httpx2
import pytest

from tests.ui import made_runs
from wanavatar_lab.api.app import create_app
from wanavatar_lab.api.options import Options
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.runs.uploads import KINDS, uploads_folder


def test_every_file_has_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Browsers show nothing of another type, since they may not guess; whatever types this machine knows."""
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setattr(mimetypes, "types_map", {})
    uploads_folder().mkdir(parents=True)
    app = create_app(Options(profile="pocket"))

    async def types() -> dict[str, str]:
        found = {}
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for suffix in KINDS:
                (uploads_folder() / f"a{suffix}").touch()
                found[suffix] = (await client.get(f"/uploads/a{suffix}")).headers["content-type"]
        return found

    kinds = {"picture": "image", "audio": "audio", "video": "video"}
    found = asyncio.run(types())
    assert {suffix: kind.partition("/")[0] for suffix, kind in found.items()} == {
        suffix: kinds[kind] for suffix, kind in KINDS.items()
    }
    assert (found[".webp"], found[".ogg"], found[".mkv"]) == ("image/webp", "audio/ogg", "video/x-matroska")


@pytest.mark.parametrize("instead", ["", "outside.mp4"])
def test_a_clip_that_is_gone_or_a_link_out_of_its_run(
    instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path / "server"))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    (clip := tmp_path / "video.mp4").write_bytes(b"a clip")
    run = made_runs.ended_run(
        ImageToVideo(profile="pocket", image=str(made_runs.picture(tmp_path / "a.png"))), [("video", clip)]
    )
    app = create_app(Options(profile="pocket"))

    async def asking() -> httpx2.Response:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as client:
            return await client.get(f"/v1/videos/{run.id}/content")

    assert asyncio.run(asking()).content == b"a clip"
    (run.folder / clip.name).unlink()
    if instead:
        (tmp_path / instead).write_bytes(b"a secret")
        (run.folder / clip.name).symlink_to(tmp_path / instead)
    assert asyncio.run(asking()).status_code == 404
