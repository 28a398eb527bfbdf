"""The networks as they are published, for planning before anything is downloaded.

The numbers of parameters were counted on the meta device with the published configs, and agree with the sizes of the
published files (see `wanavatar_lab.weights.table`); a test counts them again.
"""

from dataclasses import dataclass

from wanavatar_lab.residency.component import Component


@dataclass(frozen=True)
class Published:
    """A published network, in parameters.

    Attributes:
        name: see `Component`.
        parameters: all of them.
        itemsize: bytes of one on the GPU.
        stored: bytes of one in the published files.
        exact: those of them that stay in float32 in any case.
        castable: those that 8-bit storage reaches; 0 for networks that are never stored so.
        largest_layer: those of the layer that takes most memory.
        largest_itemsize: bytes of one of these on the GPU, where they stay in float32; 0 where they are as the others.
        width, layers, feed_forward: see `Component`.
    """

    name: str
    parameters: int
    itemsize: int
    stored: int
    exact: int = 0
    castable: int = 0
    largest_layer: int = 0
    largest_itemsize: int = 0
    width: int = 0
    layers: int = 0
    feed_forward: int = 0

    def component(self) -> Component:
        """The same in bytes."""
        gpu_bytes = self.parameters * self.itemsize + self.exact * (4 - self.itemsize)
        return Component(
            name=self.name,
            parameters=self.parameters,
            gpu_bytes=gpu_bytes,
            file_bytes=self.parameters * self.stored,
            fp8_bytes=gpu_bytes - self.castable * (self.itemsize - 1) if self.castable else None,
            largest_layer=self.largest_layer * (self.largest_itemsize or self.itemsize),
            width=self.width,
            layers=self.layers,
            feed_forward=self.feed_forward,
        )


_UMT5 = Published("text_encoder", 5_680_910_336, 2, 2, largest_layer=1_050_148_864, width=4096, layers=24)
_WAN_VAE = Published("vae", 126_892_531, 4, 4, largest_layer=3_981_696, width=96)


def _expert(name: str) -> Published:
    return Published(
        name,
        14_288_901_184,
        2,
        4,
        exact=29_184_000,
        castable=14_053_314_560,
        largest_layer=157_317_120,
        width=5120,
        layers=40,
        feed_forward=13_824,
    )


PUBLISHED: dict[str, tuple[Published, ...]] = {
    "text_to_image": (
        # Qwen3-8B
        Published("text_encoder", 8_190_735_360, 2, 2, largest_layer=622_329_856, width=4096, layers=36),
        Published(
            "transformer",
            9_078_581_248,
            2,
            2,
            castable=9_044_492_288,
            largest_layer=150_994_944,
            width=4096,
            layers=32,
            feed_forward=12_288,
        ),
        Published("vae", 84_046_115, 2, 2, largest_layer=2_359_808, width=128),
    ),
    "upscale": (Published("network", 16_703_171, 2, 4, width=64),),
    "image_to_video": (_UMT5, _expert("transformer"), _expert("transformer_2"), _WAN_VAE),
    "speech_to_video": (
        _UMT5,
        # wav2vec2-large-xlsr-53
        Published("audio_encoder", 315_438_720, 4, 4, largest_layer=8_388_736, width=1024, layers=24),
        Published(
            "transformer",
            16_295_755_609,
            2,
            2,
            exact=281_552_665,
            castable=15_311_851_520,
            largest_layer=157_317_120,
            largest_itemsize=4,
            width=5120,
            layers=40,
            feed_forward=13_824,
        ),
        _WAN_VAE,
    ),
}
