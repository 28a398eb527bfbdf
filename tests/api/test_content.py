"""The file of a clip, where it is not what its run says."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from tests.ui import made_runs
from wanavatar_lab.api.app import create_app
from wanavatar_lab.api.options import Options
from wanavatar_lab.requests import ImageToVideo


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
