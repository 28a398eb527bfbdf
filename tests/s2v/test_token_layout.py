"""Where tokens stand: the whole sequence's positions, and the share of each process."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.s2v.toy import blocks, relative_error, toy_model
from wanavatar_lab.s2v.token_layout import (
    REFERENCE_TIME,
    TokenLayout,
    WanS2VFramePacker,
    WanS2VRotaryPosEmbed,
    token_positions,
)

EVEN = st.integers(4, 12).map(lambda n: 2 * n)  # latent rows or columns


@st.composite
def sequences(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """Total tokens, video tokens, tokens per frame, processes; no process goes without a token."""
    per_frame = draw(st.integers(1, 40))
    video = per_frame * draw(st.integers(1, 12))
    total = video + draw(st.integers(0, 150))
    return total, video, per_frame, draw(st.integers(1, min(9, total)))


@given(sequences())
def test_shards_are_those_of_tensor_split(sequence: tuple[int, int, int, int]) -> None:
    total, video, per_frame, world = sequence
    for rank, tokens in enumerate(torch.arange(total).tensor_split(world)):
        layout = TokenLayout.shard(total, video, per_frame, rank, world)
        mine = tokens[tokens < video]
        assert layout.video_tokens == len(mine)
        assert layout.tokens_per_frame == per_frame
        if len(mine) == 0:
            assert layout.frames == 0
            continue
        # the arithmetic that the injection relies on: token i of the shard is token lead + i from first_frame on
        frames = layout.first_frame + (layout.lead + torch.arange(len(mine))) // per_frame
        assert torch.equal(frames, mine // per_frame)
        assert layout.frames == len(frames.unique())
        assert 0 <= layout.lead < per_frame


@given(sequences(), st.integers(1, 2))
def test_the_audio_is_heard_the_same_in_shards(sequence: tuple[int, int, int, int], batch: int) -> None:
    total, video, per_frame, world = sequence
    injection = blocks(MODEL)[0].audio_injection
    assert injection is not None
    generator = torch.Generator().manual_seed(total)
    tokens = torch.randn(batch, total, 72, generator=generator)
    audio = torch.randn(batch, video // per_frame, 3, 72, generator=generator)
    summary = torch.randn(batch, video // per_frame, 72, generator=generator)
    with torch.no_grad():
        whole = injection(tokens, audio, summary, TokenLayout.shard(total, video, per_frame))
        shards = [
            injection(shard, audio, summary, TokenLayout.shard(total, video, per_frame, rank, world))
            for rank, shard in enumerate(tokens.tensor_split(world, dim=1))
        ]
    assert relative_error(torch.cat(shards, dim=1), whole) <= 1e-6
    assert torch.equal(whole[:, video:], tokens[:, video:])


MODEL = toy_model()
CPU = torch.device("cpu")


@given(st.integers(1, 6), EVEN, EVEN, st.booleans())
def test_every_token_has_a_position(frames: int, height: int, width: int, motion: bool) -> None:
    rows, columns = height // 2, width // 2
    positions = token_positions(frames, rows, columns, motion, CPU).numpy()
    video, reference = frames * rows * columns, rows * columns
    expected = video + reference
    if motion:
        packer = WanS2VFramePacker(1, 1)
        with torch.no_grad():
            expected += packer(torch.zeros(1, 1, 19, height, width)).shape[1]
    assert positions.shape == (expected, 3)
    assert np.array_equal(positions[:video, 0], np.repeat(np.arange(frames), rows * columns))
    assert (positions[video : video + reference, 0] == REFERENCE_TIME).all()
    assert (positions[video + reference :, 0] < 0).all()
    assert positions[:, 1].min() == positions[:, 2].min() == 0
    assert positions[:, 1].max() == rows - 1
    assert positions[:, 2].max() == columns - 1


@given(st.integers(4, 300), st.integers(4, 300))
def test_merged_tokens_are_where_the_reference_puts_them(rows: int, columns: int) -> None:
    found = token_positions(1, rows, columns, True, CPU)[2 * rows * columns :].numpy()
    wanted = []
    for times, merged in (([-1], 1), ([-3], 2), ([-19, -14, -9, -4], 4)):
        grid = [np.linspace(0, size - 1, size // merged).astype(np.int64) for size in (rows, columns)]
        wanted.append(np.stack(np.meshgrid(times, *grid, indexing="ij"), axis=-1).reshape(-1, 3))
    assert np.array_equal(found, np.concatenate(wanted))


def test_rotary_tables_hold_their_phase_far_out() -> None:
    cosine, sine = WanS2VRotaryPosEmbed(128)(2, 60, 104, True, CPU)
    assert cosine.dtype == sine.dtype == torch.float32
    assert cosine.shape == sine.shape == (1, len(token_positions(2, 60, 104, True, CPU)), 1, 64)
    # the last video token's column is 103; its fastest frequency turns by one radian per column
    last = 2 * 60 * 104 - 1
    assert cosine[0, last, 0, 22 + 21].item() == pytest.approx(np.cos(103.0), abs=1e-6)
    assert torch.allclose(cosine**2 + sine**2, torch.ones_like(cosine), atol=1e-6)
