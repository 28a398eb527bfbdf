"""Make `file_to_frames/`: a picture, a recording, and the frames that Wan2.2's speech to video makes of these files.

    python -m tests.golden.make_file_to_frames

What happens to both files and the loop over segments are written down here after the reference (Wan-Video/Wan2.2,
commit 42bf4cf: `generate` of wan/speech2video.py, wan/modules/s2v/audio_encoder.py), with the libraries that it calls,
without streaming, everything in memory. Of this project it takes the network and the solver, which other golden data
hold to the reference. Nothing is written unless this loop reproduces the video of `s2v_loop_a` and this audio front end
the features and buckets of `audio_a`, which the reference itself has made.
"""

import math
from pathlib import Path

import numpy as np
import soundfile
import soxr  # type: ignore[import-untyped]
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.wan.scheduler import flow_unipc, set_flow_timesteps

GOLDEN = Path(__file__).parent
FOLDER = GOLDEN / "file_to_frames"
RATE, FEATURES, BETWEEN, FPS = 16_000, 50, 30, 16  # Hz: of the waveform, its features, in between, of the video
FRAMES, MOTION, FIRST = 16, 73, 3  # of a segment, carried over, and left out of the first segment
STEPS, GUIDANCE, SHIFT, SEED, SIDE = 4, 4.5, 3.0, 7, 64
SECONDS = 1.7


def prepared_picture(path: Path, height: int, width: int) -> Tensor:
    """[1, 3, 1, H, W] in [-1, 1]: the shorter side is scaled to the frame's shorter one, then the centre is cut out."""
    picture = Image.open(path).convert("RGB")
    shorter = min(height, width)
    # torchvision's Resize truncates the longer side, its CenterCrop rounds half to even
    size = [shorter if side == min(picture.size) else int(shorter * side / min(picture.size)) for side in picture.size]
    picture = picture.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    levels = np.asarray(picture.crop((left, top, left + width, top + height)))
    return (torch.from_numpy(levels.copy()).permute(2, 0, 1).float() / 255 * 2 - 1)[None, :, None]


def prepared_waveform(path: Path) -> np.ndarray:
    """The mean of the channels at 16 kHz, as librosa.load gives it."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    length = math.ceil(len(mono) * RATE / rate)
    found = mono if rate == RATE else soxr.resample(mono, rate, RATE, quality="HQ")[:length]
    return np.pad(found, (0, length - len(found)))


@torch.no_grad()
def features_of(waveform: np.ndarray, folder: Path) -> Tensor:
    """[layers + 1, T, dim] at 50 Hz; the last one is behind the encoder's final norm, as in transformers 4.51.3."""
    processor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = processor(waveform, sampling_rate=RATE, return_tensors="pt").input_values
    result = Wav2Vec2Model.from_pretrained(folder).eval()(values, output_hidden_states=True)
    return torch.cat([*result.hidden_states[:-1], result.last_hidden_state])


def bucket_of(features: Tensor, frames: int) -> Tensor:
    """[frames of all segments, layers, dim]: at 30 Hz the one nearest to each frame, zeros behind the end."""
    length = int(features.shape[1] / FEATURES * BETWEEN)
    between = F.interpolate(features.transpose(1, 2), size=length, mode="linear", align_corners=True).transpose(1, 2)
    segments = int(length / (frames * BETWEEN / FPS)) + 1
    times = np.linspace(0, segments * frames / FPS, segments * frames, endpoint=False)
    places = np.round(times * BETWEEN).astype(int)
    silence = torch.zeros(features.shape[0], features.shape[2])
    return torch.stack([between[:, place] if place < length else silence for place in places])


@torch.no_grad()
def video_of(picture: Tensor, bucket: Tensor, prompts: list[Tensor], network: WanS2VTransformer3DModel) -> Tensor:
    """[3, F, H, W] in [-1, 1] of a picture, a bucket, and the embeddings of the prompt and the negative prompt."""
    vae = AutoencoderKLWan.from_pretrained(GOLDEN / "s2v_loop_a" / "vae").eval()
    mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std"))

    def encode(pixels: Tensor) -> Tensor:
        return (vae.encode(pixels).latent_dist.mode() - mean) / std

    height, width = picture.shape[3:]
    reference, before, made = encode(picture), torch.zeros(1, 3, MOTION, height, width), []
    motion = encode(before)
    for segment in range(len(bucket) // FRAMES):
        first = segment == 0
        noise = torch.Generator().manual_seed(SEED + segment)
        latents = torch.randn(16, FRAMES // 4, height // 8, width // 8, generator=noise)[None]
        heard = bucket[segment * FRAMES : (segment + 1) * FRAMES].permute(1, 2, 0)[None]
        solver = flow_unipc(SHIFT)
        for timestep in set_flow_timesteps(solver, STEPS, "cpu"):
            said, unsaid = (
                network(
                    hidden_states=latents,
                    timestep=timestep[None],
                    encoder_hidden_states=text,
                    audio_embeds=audio,
                    ref_latents=reference,
                    motion_latents=motion,
                    drop_motion_frames=first,
                    pose_latents=torch.zeros_like(latents),
                    return_dict=False,
                )[0]
                for text, audio in zip(prompts, (heard, 0 * heard), strict=True)
            )
            latents = solver.step(unsaid + GUIDANCE * (said - unsaid), timestep, latents, return_dict=False)[0]
        decoded = vae.decode(torch.cat([reference if first else motion, latents], dim=2) * std + mean).sample
        frames = decoded[:, :, -FRAMES:][:, :, FIRST if first else 0 :]
        before = torch.cat([before[:, :, frames.shape[2] :], frames], dim=2)
        motion = encode(before)
        made.append(frames[0])
    return torch.cat(made, dim=1)


def check(name: str, found: Tensor, wanted: Tensor, most: float) -> None:
    """End the program where the reference's own data are not reproduced."""
    error = float((found - wanted).norm() / wanted.norm())
    print(f"{name}: {error:.1e}, at most {most:g}")
    if error > most:
        raise SystemExit(f"{name} differs from the reference's, so nothing is written.")


def draw_inputs() -> None:
    """A picture that is wider than the frame, a stereo recording at 44.1 kHz, and a wav2vec2 of the network's width."""
    FOLDER.mkdir(exist_ok=True)
    rows, columns = np.mgrid[0:72, 0:103] / 12
    waves = [np.sin(rows + k) * np.cos(columns * (1 + k / 3)) for k in range(3)]
    Image.fromarray((127.5 + 127 * np.stack(waves, axis=-1)).astype(np.uint8)).save(FOLDER / "picture.png")
    time = np.arange(round(SECONDS * 44_100)) / 44_100
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 3 * time)
    sides = [swell * np.sin(2 * np.pi * (180 + side * 7 + 90 * time) * time) * 0.6 for side in range(2)]
    soundfile.write(FOLDER / "voice.wav", np.stack(sides, axis=1), 44_100, subtype="PCM_16")
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=24,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        conv_bias=True,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        initializer_range=0.2,
    )
    Wav2Vec2Model(config).eval().save_pretrained(FOLDER / "audio_encoder")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(FOLDER / "audio_encoder")


def main() -> None:
    """Check the code above against the reference's data, then write."""
    audio = load_file(GOLDEN / "audio_a" / "io.safetensors")
    features = features_of(audio["waveform"].numpy(), GOLDEN / "audio_a")
    check("features of audio_a", features, audio["features_50hz"], 1e-5)
    check("bucket of audio_a", bucket_of(features, FRAMES), audio["bucket"], 1e-5)
    loop = load_file(GOLDEN / "s2v_loop_a" / "pipeline.safetensors")
    network = WanS2VTransformer3DModel.from_official(GOLDEN / "s2v_loop_a", torch_dtype=torch.float32)
    prompts = [loop["prompt_embeds"], loop["negative_prompt_embeds"]]
    picture = prepared_picture(GOLDEN / "s2v_loop_a" / "image.png", SIDE, SIDE)
    video = video_of(picture, bucket_of(loop["audio_features_50hz"], FRAMES), prompts, network)
    check("video of s2v_loop_a", video, loop["video"], 1e-3)

    draw_inputs()
    bucket = bucket_of(features_of(prepared_waveform(FOLDER / "voice.wav"), FOLDER / "audio_encoder"), FRAMES)
    video = video_of(prepared_picture(FOLDER / "picture.png", SIDE, SIDE), bucket, prompts, network)
    levels = ((video.clamp(-1, 1) + 1) * 127.5).round().byte()
    save_file({"bucket": bucket.contiguous(), "video": levels.contiguous()}, FOLDER / "io.safetensors")


if __name__ == "__main__":
    main()
