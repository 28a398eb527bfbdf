"""Let the processes of a run compute a stage's denoising networks together, and say how they do."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from wanavatar_lab.memory import Workload
from wanavatar_lab.memory.sharing import layout_of, leaves_out_passes
from wanavatar_lab.requests import Request
from wanavatar_lab.runs.ranks import BY_ITSELF
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.context_parallel import agree_on_first_block, share, unshare
from wanavatar_lab.wan.vae import FastDecoder


@contextmanager
def shared(
    request: Request, workload: Workload, networks: Sequence[Any], context: StageContext, vae: Any = None
) -> Iterator[None]:
    """Share networks until the block ends; nothing for a process by itself.

    Args:
        request, workload: of the run.
        networks: placed, and with their kernels chosen.
        context: of the run.
        vae: whose decoder is shared too, if it is Wan's.
    """
    ranks = context.ranks
    if ranks.world == 1:
        yield
        return
    layout = layout_of(workload, ranks.world, predicted=leaves_out_passes(request))
    context.record(gpus=ranks.world, shared=str(layout))
    passes = "each computes one of the passes of guidance" if layout.guidance > 1 else ""
    tokens = f"{layout.sequence} share the sequence of a pass" if layout.sequence > 1 else ""
    context.log(f"{ranks.world} processes make this run: {' and '.join(filter(None, (passes, tokens)))}.")
    share(networks, ranks, layout)
    decoder = getattr(vae, "decoder", None)
    if isinstance(decoder, FastDecoder):
        decoder.ranks = ranks
    try:
        for network in networks:
            agree_on_first_block(network)
        yield
    finally:
        unshare(networks)
        if isinstance(decoder, FastDecoder):
            decoder.ranks = BY_ITSELF
