"""Media files of every format that people bring, whole: plain ones to be damaged, and odd ones that players play.

What each holds is not written down here; `read_files` compares it with what FFmpeg alone decodes.
"""

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pillow_heif
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import Image

from tests.media.samples import mux, numbered, tone

pillow_heif.register_heif_opener()

X265 = {"x265-params": "log-level=none", "preset": "ultrafast"}
VP9 = {"cpu-used": "8", "deadline": "realtime"}
AV1 = {"preset": "13", "svtav1-params": "lp=1"}
HLG = (ColorTrc.ARIB_STD_B67, ColorPrimaries.BT2020, Colorspace.BT2020)
SHORT: dict[str, Any] = {"frames": [numbered(k) for k in range(8)], "samples": tone(16_000, 0.5), "rate": 16_000}
FRONT = {"movflags": "+faststart"}
LIVE_MP4 = {"movflags": "frag_keyframe+empty_moov"}

# file name → arguments of `mux` beside SHORT
PLAIN: dict[str, dict[str, Any]] = {
    "pcm.wav": {"audio": "pcm_s16le", "sample_format": "s16"},
    "float.wav": {"audio": "pcm_f32le"},
    "a.flac": {"audio": "flac", "sample_format": "s16"},
    "a.mp3": {"audio": "libmp3lame"},
    "a.aac": {"audio": "aac", "container": "adts"},
    "a.m4a": {"audio": "aac"},
    "opus.ogg": {"audio": "libopus"},
    "a.opus": {"audio": "libopus"},
    "front.mp4": {"video": "libx264", "audio": "aac", "options": FRONT},
    "end.mp4": {"video": "libx264", "audio": "aac"},
    "fragments.mp4": {"video": "libx264", "audio": "aac", "options": LIVE_MP4},
    "hevc.mp4": {"video": "libx265", "audio": "aac", "video_options": X265},
    "hevc10.mov": {"video": "libx265", "audio": "aac", "pixels": "yuv420p10le", "video_options": X265, "tags": HLG},
    "a.mov": {"video": "libx264", "audio": "pcm_s16le", "sample_format": "s16"},
    "a.mkv": {"video": "libx264", "audio": "aac"},
    "vp8.webm": {"video": "libvpx", "audio": "libopus"},
    "vp9.webm": {"video": "libvpx-vp9", "audio": "libopus", "video_options": VP9},
    "av1.webm": {"video": "libsvtav1", "audio": "libopus", "video_options": AV1},
    "a.avi": {"video": "mpeg4", "audio": "libmp3lame"},
    "a.ts": {"video": "libx264", "audio": "aac"},
}
PICTURES = ("png", "jpg", "webp", "avif", "heic", "tif", "bmp", "gif")


def plain_files(folder: Path) -> list[Path]:
    """One whole file of each format, small so that many damaged ones are quick to read."""
    made = [mux(folder / name, **SHORT | options) for name, options in PLAIN.items()]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    for suffix in PICTURES:
        animation: dict[str, Any] = {"save_all": True, "append_images": [noise.rotate(90)]} if suffix == "gif" else {}
        noise.save(folder / f"a.{suffix}", **animation)
        made.append(folder / f"a.{suffix}")
    return made


def sized(height: int, width: int) -> list[NDArray[np.uint8]]:
    shades = np.random.default_rng(1).integers(0, 255, (3, height, width, 3), dtype=np.uint8)
    return list(shades)


def clear(count: int = 4) -> list[NDArray[np.uint8]]:
    """RGBA frames that are half transparent."""
    frame = np.full((32, 64, 4), (200, 60, 20, 255), np.uint8)
    frame[:, :32, 3] = 100
    return [frame] * count


X264 = {"video": "libx264"}
BOTH = {"video": "libx264", "audio": "aac"}
WAV = {"audio": "pcm_s16le", "sample_format": "s16"}
EIGHT: dict[str, Any] = {"rate": 8_000, "samples": tone(8_000, 0.5)}
BIG_ENDIAN = {"s16": "s16", "s24": "s32", "f32": "flt", "f64": "dbl"}
PHONE = [0, 20, 41, 60, 100, 106, 160, 300]
BEFORE, AS_THEY_ARE = [-9, -3, -1, 0, 2, 4, 6, 8], {"avoid_negative_ts": "disabled"}
ODD: dict[str, dict[str, Any]] = {
    **{f"{rate}.wav": WAV | {"rate": rate, "samples": tone(rate, 0.3)} for rate in (8_000, 11_025, 22_050, 37_800)},
    **{f"{rate}.flac": WAV | {"audio": "flac", "rate": rate, "samples": tone(rate, 0.3)} for rate in (96_000, 192_000)},
    **{f"{count}_channels.wav": WAV | {"samples": tone(16_000, 0.2, count)} for count in range(2, 9)},
    **{f"{count}_channels.m4a": {"audio": "aac", "samples": tone(16_000, 0.2, count)} for count in (2, 6)},
    "u8.wav": {"audio": "pcm_u8", "sample_format": "u8"},
    "s24.wav": {"audio": "pcm_s24le", "sample_format": "s32"},
    "f64.wav": {"audio": "pcm_f64le", "sample_format": "dbl"},
    "alaw.wav": {"audio": "pcm_alaw", "sample_format": "s16"},
    "mulaw.au": {"audio": "pcm_mulaw", "sample_format": "s16"},
    "adpcm.wav": {"audio": "adpcm_ms", "sample_format": "s16"},
    "mp3_inside.wav": {"audio": "libmp3lame", "container": "wav"},
    "a.w64": WAV,
    "a.rf64.wav": WAV | {"options": {"rf64": "always"}, "container": "wav"},
    "a.caf": WAV,
    "a.aiff": {"audio": "pcm_s16be", "sample_format": "s16"},
    "alac.m4a": {"audio": "alac", "sample_format": "s16", "container": "ipod"},
    "one_sample.wav": WAV | {"samples": tone(16_000, 1 / 16_000)},
    "one_frame.mp3": {"audio": "libmp3lame", "samples": tone(16_000, 0.01)},
    "no_xing.mp3": {"audio": "libmp3lame", "options": {"write_xing": "0"}},
    "tagged.mp3": {"audio": "libmp3lame", "options": {"write_id3v1": "1", "id3v2_version": "4"}},
    "flac.ogg": {"audio": "flac", "sample_format": "s16", "container": "ogg"},
    "flac_inside.mp4": {"video": "libx264", "audio": "flac", "sample_format": "s16", "options": {"strict": "-2"}},
    "opus_inside.mp4": {"video": "libx264", "audio": "libopus"},
    "ac3.mkv": {"video": "libx264", "audio": "ac3", "rate": 48_000, "samples": tone(48_000, 0.5)},
    "ac3.ts": {"video": "mpeg2video", "audio": "ac3", "rate": 48_000, "samples": tone(48_000, 0.5), "fps": 25},
    "a.mpg": {"video": "mpeg2video", "audio": "mp2", "rate": 48_000, "samples": tone(48_000, 0.5), "fps": 25},
    "a.vob": {"video": "mpeg2video", "audio": "ac3", "rate": 48_000, "samples": tone(48_000, 0.5), "fps": 25},
    "a.wmv": {"video": "wmv2"},
    "a.flv": {"video": "libx264", "audio": "aac", "rate": 44_100, "samples": tone(44_100, 0.5)},
    "a.3gp": {"video": "libx264", "audio": "aac"},
    "blu_ray.m2ts": {"video": "libx264", "audio": "aac", "options": {"mpegts_m2ts_mode": "1"}},
    "raw.h264": X264 | {"container": "h264"},
    "raw.hevc": {"video": "libx265", "container": "hevc", "video_options": X265},
    "a.y4m": {"video": "wrapped_avframe", "container": "yuv4mpegpipe"},
    "a.ivf": {"video": "libvpx", "container": "ivf"},
    "camera.avi": {"video": "mjpeg", "audio": "pcm_s16le", "sample_format": "s16", "pixels": "yuvj422p"},
    "lossless.avi": {"video": "huffyuv", "pixels": "rgb24"},
    "ffv1.mkv": {"video": "ffv1", "pixels": "yuv444p", "audio": "flac", "sample_format": "s16"},
    "prores.mov": {"video": "prores_ks", "pixels": "yuv422p10le", "audio": "pcm_s24le", "sample_format": "s32"},
    "silent.mp4": X264,
    "silent.webm": {"video": "libvpx-vp9", "video_options": VP9},
    "only_sound.mp4": {"audio": "aac", "container": "mp4"},
    "only_sound.webm": {"audio": "libopus", "container": "webm"},
    "one_frame.mp4": X264 | {"frames": [numbered(0)]},
    "one_frame.webm": {"video": "libvpx", "frames": [numbered(0)]},
    "b_frames.mp4": BOTH | {"video_options": {"bf": "3", "b-adapt": "0"}},
    "b_frames.avi": X264 | {"video_options": {"bf": "3", "b-adapt": "0"}},
    "b_frames.ts": BOTH | {"video_options": {"bf": "3", "b-adapt": "0"}},
    "late_sound.mp4": BOTH | {"audio_start": 0.25},
    "late_sound.mov": BOTH | {"audio_start": 2.0},
    "early_sound.mkv": BOTH | {"audio_start": -0.1},
    "negative.mkv": X264 | {"times": [-5, -3, -1, 0, 2, 4, 6, 8], "options": {"avoid_negative_ts": "disabled"}},
    "negative.mp4": X264 | {"times": [-5, -3, -1, 0, 2, 4, 6, 8]},
    "late_start.mp4": BOTH | {"times": list(range(160, 168)), "audio_start": 10.0},
    "variable.mp4": X264 | {"times": [0, 1, 2, 9, 10, 30, 31, 60], "fps": 30},
    "variable.mkv": X264 | {"times": [0, 1, 2, 9, 10, 30, 31, 60], "fps": 30},
    "sparse.mp4": X264 | {"times": [0, 40, 41, 80, 120, 160, 200, 240]},
    "fast.mp4": X264 | {"fps": 240},
    "slow.mp4": X264 | {"fps": 1},
    "ntsc.mp4": X264 | {"fps": Fraction(30_000, 1_001)},
    **{f"turned_{angle}.mp4": BOTH | {"rotation": angle} for angle in (90, 180, 270)},
    "turned.mkv": X264 | {"rotation": 90},
    "wide_pixels.mp4": X264 | {"aspect": Fraction(4, 3)},
    "narrow_pixels.mkv": X264 | {"aspect": Fraction(8, 9)},
    "tiny.mp4": X264 | {"frames": sized(2, 2)},
    "odd.mkv": X264 | {"frames": sized(33, 35), "pixels": "yuv444p"},
    "odd.webm": {"video": "libvpx-vp9", "frames": sized(33, 35), "video_options": VP9},
    "odd.avi": {"video": "mpeg4", "frames": sized(33, 35)},
    "line.mkv": {"video": "ffv1", "pixels": "yuv444p", "frames": sized(1, 64)},
    "column.mov": {"video": "png", "pixels": "rgb24", "frames": sized(64, 1)},
    "interlaced.mp4": X264 | {"video_options": {"x264-params": "interlaced=1:tff=1"}},
    "interlaced.mpg": {"video": "mpeg2video", "fps": 25, "video_options": {"flags": "+ilme+ildct"}},
    "grey.mp4": X264 | {"pixels": "gray"},
    "deep.mp4": X264 | {"pixels": "yuv420p10le"},
    "high.mp4": X264 | {"pixels": "yuv422p"},
    "full_range.mp4": X264 | {"pixels": "yuvj420p"},
    "clear.webm": {"video": "libvpx-vp9", "pixels": "yuva420p", "frames": clear(), "video_options": VP9},
    "clear.mov": {"video": "qtrle", "pixels": "argb", "frames": clear()},
    "clear_prores.mov": {"video": "prores_ks", "pixels": "yuva444p10le", "frames": clear()},
    "animated.png": {"video": "apng", "pixels": "rgb24", "container": "apng"},
    "screen.mov": {"video": "png", "pixels": "rgb24"},
    "live.mkv": BOTH | {"options": {"live": "1"}},
    "live.webm": {"video": "libvpx", "audio": "libopus", "options": {"live": "1"}},
    "dash.mp4": BOTH | {"options": {"movflags": "dash+delay_moov", "frag_duration": "100000"}},
    "no_edit_list.mp4": BOTH | {"options": {"use_editlist": "0"}, "video_options": {"bf": "3"}},
    "chapters_at_end.mkv": BOTH | {"options": {"cues_to_front": "1", "reserve_index_space": "2000"}},
    **{f"pcm_{kind}be.mov": {"audio": f"pcm_{kind}be", "sample_format": as_} for kind, as_ in BIG_ENDIAN.items()},
    **{f"pcm_{kind}be.aiff": {"audio": f"pcm_{kind}be", "sample_format": as_} for kind, as_ in BIG_ENDIAN.items()},
    "mulaw.wav": {"audio": "pcm_mulaw", "sample_format": "s16"},
    **{f"{each}.wav": {"audio": each, "sample_format": "s16"} | EIGHT for each in ("adpcm_ima_wav", "adpcm_yamaha")},
    "adpcm_g726.wav": {"audio": "adpcm_g726", "sample_format": "s16"} | EIGHT,
    "adpcm.mov": {"audio": "adpcm_ima_qt", "sample_format": "s16"},
    "call.amr": {"audio": "libopencore_amrnb", "sample_format": "s16"} | EIGHT,
    "call.3gp": {"video": "h263", "frames": sized(96, 128), "audio": "libopencore_amrnb", "sample_format": "s16"}
    | EIGHT,
    "a.wv": {"audio": "wavpack", "sample_format": "s16"},
    "a.tta": {"audio": "tta", "sample_format": "s16"},
    "opus.m4a": {"audio": "libopus", "container": "mp4"},
    "six_opus.webm": {"audio": "libopus", "rate": 48_000, "samples": tone(48_000, 0.5, 6)},
    "opus_of_one_packet.opus": {"audio": "libopus", "rate": 48_000, "samples": tone(48_000, 0.02)},
    "eac3.mp4": {"audio": "eac3", "rate": 48_000, "samples": tone(48_000, 0.5, 2)},
    "mp3.mp4": {"video": "libx264", "audio": "libmp3lame"},
    "pcm.mp4": X264 | WAV,
    "alac.caf": {"audio": "alac", "sample_format": "s16"},
    "latm.ts": {"video": "libx265", "audio": "aac", "video_options": X265, "options": {"mpegts_flags": "+latm"}},
    "a.nut": BOTH,
    "a.mxf": {"video": "mpeg2video", "fps": 25, "rate": 48_000, "samples": tone(48_000, 0.5)} | WAV,
    "camcorder.dv": {"video": "dvvideo", "frames": sized(576, 720), "fps": 25},
    "mpeg1.mpg": {"video": "mpeg1video", "fps": 25},
    "cinepak.avi": {"video": "cinepak", "pixels": "rgb24"},
    "svq1.mov": {"video": "svq1", "pixels": "yuv410p"},
    "msmpeg4.avi": {"video": "msmpeg4"},
    "v210.mov": {"video": "v210", "pixels": "yuv422p10le"},
    "jpeg2000.mov": {"video": "jpeg2000", "pixels": "rgb24"},
    "raw.avi": {"video": "rawvideo", "pixels": "bgr24"},
    "raw.obu": {"video": "libsvtav1", "container": "obu", "video_options": AV1},
    "moving.avif": {"video": "libsvtav1", "container": "avif", "video_options": AV1},
    "av1.mp4": {"video": "libsvtav1", "audio": "aac", "video_options": AV1},
    "av1_10.mkv": {"video": "libsvtav1", "pixels": "yuv420p10le", "video_options": AV1},
    "vp9_444.webm": {"video": "libvpx-vp9", "pixels": "yuv444p", "video_options": VP9},
    "vp9.mp4": {"video": "libvpx-vp9", "video_options": VP9},
    "hevc_444.mp4": {"video": "libx265", "pixels": "yuv444p", "video_options": X265},
    "hevc_12.mkv": {"video": "libx265", "pixels": "yuv420p12le", "video_options": X265},
    "h264_444_10.mkv": X264 | {"pixels": "yuv444p10le"},
    "rgb.mkv": {"video": "libx264rgb", "pixels": "rgb24"},
    "open_gop.mp4": X264 | {"video_options": {"x264-params": "open-gop=1:keyint=4:bframes=3"}},
    "prores_4444.mov": {"video": "prores_ks", "pixels": "yuv444p10le"},
    "deep.mov": {"video": "png", "pixels": "rgb48be"},
    "grey_16.mkv": {"video": "ffv1", "pixels": "gray16le"},
    "clear_ffv1.mkv": {"video": "ffv1", "pixels": "yuva420p", "frames": clear()},
    "phone.mp4": BOTH | {"fps": 90_000, "times": [0, 3_000, 6_100, 9_000, 15_000, 15_900, 24_000, 45_000]},
    "phone.mov": {
        "video": "libx265",
        "audio": "aac",
        "fps": 600,
        "times": PHONE,
        "video_options": X265,
        "rotation": 90,
    },
    "sound_long_before_0.mkv": BOTH | {"audio_start": -0.5, "times": BEFORE, "options": AS_THEY_ARE},
    "of_a_clock.mkv": BOTH | {"audio_start": 108_000.0, "times": [1_728_000 + k for k in range(8)]},
    "of_a_clock.ts": BOTH | {"audio_start": 72_000.0, "times": [1_152_000 + k for k in range(8)]},
    "late_picture.mkv": BOTH | {"times": list(range(16, 24))},
    "late_picture.mp4": BOTH | {"times": list(range(16, 24))},
    "pause.mp4": BOTH | {"times": [0, 1, 2, 3, 160, 161, 162, 163]},
    "same_times.mkv": {"video": "ffv1", "times": [0, 1, 1, 2, 2, 3, 4, 5]},
    "cmaf.mp4": BOTH | {"options": {"movflags": "cmaf+frag_keyframe"}},
    "each_frame.mp4": BOTH | {"options": {"movflags": "frag_every_frame+empty_moov+default_base_moof"}},
    "a.ismv": BOTH,
    "hinted.mp4": BOTH | {"options": {"movflags": "rtphint"}},
    "very_fast.mp4": X264 | {"fps": 1_000},
    "slide_show.mkv": {"video": "ffv1", "fps": Fraction(1, 10)},
    "very_wide_pixels.mp4": X264 | {"aspect": Fraction(10)},
    "a_pixel.mkv": {"video": "ffv1", "pixels": "yuv444p", "frames": sized(1, 1)},
    "slanted.mp4": BOTH | {"rotation": 45},
}


def empty_track(path: Path, empty: str) -> None:
    """An MP4 in which one of two tracks, "video" or "audio", has no packet."""
    with av.open(str(path), "w") as file:
        picture: Any = file.add_stream("libx264", rate=16)
        picture.width, picture.height, picture.pix_fmt = 96, 32, "yuv420p"
        sound: Any = file.add_stream("aac", rate=16_000, layout="mono")
        for index in range(8):
            if empty == "audio":
                frame: Any = av.VideoFrame.from_ndarray(numbered(index), format="rgb24").reformat(format="yuv420p")
                frame.pts = index
                file.mux(picture.encode(frame))
            else:
                frame = av.AudioFrame.from_ndarray(tone(16_000, 0.064).reshape(1, -1), format="flt", layout="mono")
                frame.sample_rate, frame.pts = 16_000, index * 1_024
                file.mux(sound.encode(frame))
        file.mux((picture if empty == "audio" else sound).encode(None))


def two_sounds(path: Path) -> None:
    """A recording with a second microphone, of another rate and number of channels."""
    with av.open(str(path), "w") as file:
        streams: list[Any] = [file.add_stream("flac", rate=16_000, layout="mono")]
        streams.append(file.add_stream("flac", rate=48_000, layout="stereo"))
        for stream, (rate, layout) in zip(streams, ((16_000, "mono"), (48_000, "stereo")), strict=True):
            block = np.zeros((1, rate * (1 if layout == "mono" else 2)), np.int16)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))


def many_tracks(path: Path) -> None:
    """Two cameras, two languages and what a player needs for subtitles."""
    with av.open(str(path), "w") as file:
        pictures: list[Any] = [file.add_stream("libx264", rate=16) for _ in range(2)]
        sounds: list[Any] = [file.add_stream("aac", rate=16_000, layout="mono") for _ in range(2)]
        file.add_attachment("font.ttf", "application/x-truetype-font", bytes(5_000))
        for size, picture in enumerate(pictures, 1):
            picture.width, picture.height, picture.pix_fmt = 96 * size, 32 * size, "yuv420p"
        for size, picture in enumerate(pictures, 1):
            for index in range(8):
                shown = np.kron(numbered(index), np.ones((size, size, 1), np.uint8))
                frame: Any = av.VideoFrame.from_ndarray(shown, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 16)
                file.mux(picture.encode(frame))
            file.mux(picture.encode(None))
        for sound in sounds:
            frame = av.AudioFrame.from_ndarray(tone(16_000, 0.5).reshape(1, -1), format="flt", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            file.mux(sound.encode(frame))
            file.mux(sound.encode(None))


def with_cover(path: Path) -> None:
    """Sound with a picture of its record."""
    with av.open(str(path), "w") as file:
        sound: Any = file.add_stream("flac" if path.suffix == ".flac" else "aac", rate=16_000, layout="mono")
        cover: Any = file.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 24, "rgb24"
        cover.disposition = Disposition.attached_pic
        file.start_encoding()
        picture = av.VideoFrame.from_image(NOISE)
        picture.pts = 0
        file.mux(cover.encode(picture))
        file.mux(cover.encode(None))
        samples = np.rint(tone(16_000, 0.5) * 32_767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        file.mux(sound.encode(frame))
        file.mux(sound.encode(None))


def id3(size: int, picture: bytes = b"") -> bytes:
    """An ID3v2.3 tag with padding, and a cover."""
    apic = b"\0image/png\0\3\0" + picture
    frame = b"APIC" + len(apic).to_bytes(4, "big") + b"\0\0" + apic if picture else b""
    body = frame + bytes(size)
    length = bytes(len(body) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\3\0\0" + length + body


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of RIFF."""
    return name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def wav(*chunks: bytes, head: bytes = b"RIFF", size: int | None = None) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return head + struct.pack(">I" if head == b"RIFX" else "<I", len(body) if size is None else size) + body


def form(tag: int, bits: int, more: bytes = b"", per_second: int | None = None) -> bytes:
    """A format chunk of one channel at 16 kHz."""
    stated = 2_000 * bits if per_second is None else per_second
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, 1, 16_000, stated, bits // 8, bits) + more)


WAVE_EX = struct.pack("<HHIH", 22, 16, 4, 1) + bytes.fromhex("000000001000800000aa00389b71")
FMT = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 16_000, 32_000, 2, 16))
SAMPLES = np.rint(tone(16_000, 0.5)[:, 0] * 32_768).astype("<i2").tobytes()
BIG = b"fmt \0\0\0\x10" + struct.pack(">HHIIHH", 1, 1, 16_000, 32_000, 2, 16) + b"data"
BIG += struct.pack(">I", len(SAMPLES)) + np.frombuffer(SAMPLES, "<i2").astype(">i2").tobytes()


def read(name: str) -> Callable[[Path], bytes]:
    return lambda plain: (plain / name).read_bytes()


def box(name: bytes, data: bytes = b"") -> bytes:
    """A box of MP4."""
    return struct.pack(">I", 8 + len(data)) + name + data


def to_the_end(plain: Path) -> bytes:
    """An MP4 whose last box states no size, as live recorders write it."""
    data = bytearray((plain / "front.mp4").read_bytes())
    place = data.index(b"mdat") - 4
    data[place : place + 4] = bytes(4)
    return bytes(data)


def unknown_length(plain: Path) -> bytes:
    """A FLAC from a stream: neither the number of samples nor their MD5 is known."""
    data = bytearray((plain / "a.flac").read_bytes())
    data[21] &= 0xF0
    data[22:42] = bytes(20)
    return bytes(data)


def without_index(plain: Path) -> bytes:
    data = (plain / "a.avi").read_bytes()
    return data[: data.index(b"idx1")]


def without(data: bytes, marker: bytes) -> bytes:
    assert data.endswith(marker)
    return data[: -len(marker)]


def png(*chunks: bytes) -> bytes:
    """NOISE, its pixels in these chunks."""
    head = struct.pack(">IIBBBBB", 32, 24, 8, 2, 0, 0, 0)
    named = ((b"IHDR", head), *((b"IDAT", each) for each in chunks), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in named
    )


NOISE = Image.fromarray(np.random.default_rng(2).integers(0, 255, (24, 32, 3), dtype=np.uint8))
PNG, JPEG = io.BytesIO(), io.BytesIO()
NOISE.save(PNG, "PNG")
NOISE.save(JPEG, "JPEG")
pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(NOISE)))


def picture(mode: str = "RGB", frames: int = 1, **options: Any) -> Callable[[Path], None]:
    """Write NOISE in a mode, by the suffix, with options of Pillow."""

    def write(path: Path) -> None:
        image = NOISE.convert(mode)
        more: dict[str, Any] = (
            {"save_all": True, "append_images": [image.rotate(90)] * (frames - 1)} if frames > 1 else {}
        )
        image.save(path, **more, **options)

    return write


# written by a function of the path
WRITTEN: dict[str, Callable[[Path], None]] = {
    "empty_sound.mp4": lambda path: empty_track(path, "audio"),
    "empty_picture.mp4": lambda path: empty_track(path, "video"),
    "two_sounds.mkv": two_sounds,
    "many_tracks.mkv": many_tracks,
    "cover.mp4": with_cover,
    "cover.flac": with_cover,
    "progressive.jpg": picture(progressive=True),
    "cmyk.jpg": picture("CMYK"),
    "grey.jpg": picture("L"),
    "restart.jpg": picture(restart_marker_blocks=2),
    "palette.png": picture("P", transparency=3),
    "one_bit.png": picture("1"),
    "clear.png": picture("RGBA"),
    "several.png": picture(frames=3),
    "lossless.webp": picture(lossless=True),
    "clear.webp": picture("RGBA"),
    "several.webp": picture(frames=3),
    "clear.avif": picture("RGBA"),
    "several.avif": picture(frames=3),
    "clear.heic": picture("RGBA"),
    "several.heic": picture(frames=2),
    **{f"{each}.tif": picture(compression=each) for each in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")},
    "fax.tif": picture("1", compression="group4"),
    "cmyk.tif": picture("CMYK"),
    "big.tif": picture(big_tiff=True),
    "several.tif": picture(frames=3),
    "grey.bmp": picture("L"),
    "one_bit.bmp": picture("1"),
    "clear.bmp": picture("RGBA"),
    "interlaced.gif": picture("P", interlace=True),
    "clear.gif": picture("P", transparency=0),
    "a.ppm": picture(),
    "a.ico": picture(),
    "a.jp2": picture(),
    "sixteen_bits.png": lambda path: Image.fromarray(np.arange(768, dtype=np.uint16).reshape(24, 32) * 80).save(path),
    "soft.png": picture("P", transparency=bytes(range(256))),
    "four_colours.png": lambda path: NOISE.quantize(4).save(path, bits=2),
    "lab.tif": picture("LAB"),
    "several.jpg": picture(frames=2, format="MPO"),
    "restored.gif": picture("P", frames=4, disposal=2, duration=50),
    "xmp.jpg": picture(xmp=b"<x:xmpmeta>" + b" " * 50_000),
    "no_density.jpg": picture(dpi=(0, 0)),
    "a_quarter.jpg": picture(subsampling="4:1:1"),
    "bad_profile.jpg": picture(icc_profile=b"nonsense" * 40),
}
# bytes, made of those of plain files
CHANGED: dict[str, Callable[[Path], bytes]] = {
    "id3.flac": lambda plain: id3(70_000) + read("a.flac")(plain),
    "id3.aac": lambda plain: id3(300) + read("a.aac")(plain),
    "cover.mp3": lambda plain: id3(10, PNG.getvalue()) + read("a.mp3")(plain),
    "long_tag.mp3": lambda plain: id3(300_000) + read("a.mp3")(plain),
    "garbage_in_front.mp3": lambda plain: bytes(500) + read("a.mp3")(plain),
    "ape_behind.mp3": lambda plain: read("a.mp3")(plain) + b"APETAGEX\xd0\7\0\0" + bytes(20),
    "twice.mp3": lambda plain: read("a.mp3")(plain) * 2,
    "twice.aac": lambda plain: read("a.aac")(plain) * 2,
    "twice.ts": lambda plain: read("a.ts")(plain) * 2,
    "twice.opus": lambda plain: read("a.opus")(plain) * 2,
    "twice.flac": lambda plain: read("a.flac")(plain) * 2,
    "unknown_length.flac": unknown_length,
    "size_zero.wav": lambda _: wav(FMT, b"data" + bytes(4) + SAMPLES, size=0),
    "size_unknown.wav": lambda _: wav(FMT, b"data\xff\xff\xff\xff" + SAMPLES, size=0xFFFFFFFF),
    "size_too_large.wav": lambda _: wav(FMT, b"data\0\0\1\0" + SAMPLES),
    "list_in_front.wav": lambda _: wav(chunk(b"LIST", b"INFOISFT\5\0\0\0Lavf\0"), FMT, chunk(b"data", SAMPLES)),
    "odd_chunk.wav": lambda _: wav(FMT, chunk(b"bext", bytes(603)), chunk(b"data", SAMPLES), chunk(b"cue ", bytes(28))),
    "behind.wav": lambda _: wav(FMT, chunk(b"data", SAMPLES)) + id3(3_000),
    "big_endian.wav": lambda _: wav(BIG, head=b"RIFX"),
    "size_to_the_end.mp4": to_the_end,
    "strange_boxes.mp4": lambda plain: read("end.mp4")(plain) + box(b"wxyz", bytes(99)) + box(b"free", bytes(9)),
    "garbage_behind.mp4": lambda plain: read("front.mp4")(plain) + bytes(range(256)) * 4,
    "garbage_in_front.ts": lambda plain: bytes(range(100)) + read("a.ts")(plain),
    "garbage_behind.mkv": lambda plain: read("a.mkv")(plain) + bytes(range(256)) * 4,
    "without_index.avi": without_index,
    "an_mp3.wav": read("a.mp3"),
    "an_m4a.mp3": read("a.m4a"),
    "a_wav.mp3": read("pcm.wav"),
    "a_webm.mp4": read("vp8.webm"),
    "an_mp4.avi": read("front.mp4"),
    "an_mp4.jpg": read("front.mp4"),
    "a_video": read("a.mkv"),
    "a_jpeg.png": read("a.jpg"),
    "a_webp.jpg": read("a.webp"),
    "an_avif.jpg": read("a.avif"),
    "a_heic.jpg": read("a.heic"),
    "a_png.mp4": read("a.png"),
    "a_picture": read("a.jpg"),
    "motion_photo.jpg": lambda plain: JPEG.getvalue() + read("front.mp4")(plain),
    "without_its_end.jpg": lambda _: without(JPEG.getvalue(), b"\xff\xd9"),
    "broken_exif.jpg": lambda _: (
        JPEG.getvalue()[:2] + b"\xff\xe1\0\x20Exif\0\0II*\0" + b"\xee" * 20 + JPEG.getvalue()[2:]
    ),
    "behind.png": lambda _: PNG.getvalue() + b"workflow" * 100,
    "without_its_end.png": lambda _: PNG.getvalue()[:-12],
    "in_small_chunks.png": lambda _: png(*(pixels[place : place + 7] for place in range(0, len(pixels), 7))),
    "empty_chunks.png": lambda _: png(b"", pixels, b""),
    "more_than_its_pixels.png": lambda _: png(zlib.compress(zlib.decompress(pixels) + bytes(99))),
    "twice.jpg": lambda _: JPEG.getvalue() * 2,
    "filled.jpg": lambda _: JPEG.getvalue()[:2] + b"\xff\xff\xff" + JPEG.getvalue()[2:],
    "u8_header.wav": lambda _: wav(form(1, 8), chunk(b"data", bytes(8_000))),
    "float_header.wav": lambda _: wav(form(3, 32) + chunk(b"fact", bytes(4)), chunk(b"data", bytes(32_000))),
    "extensible.wav": lambda _: wav(form(0xFFFE, 16, WAVE_EX), chunk(b"data", SAMPLES)),
    "data_first.wav": lambda _: wav(chunk(b"data", SAMPLES), FMT),
    "no_bytes_a_second.wav": lambda _: wav(form(1, 16, per_second=0), chunk(b"data", SAMPLES)),
    "wrong_bytes_a_second.wav": lambda _: wav(form(1, 16, per_second=1), chunk(b"data", SAMPLES)),
    "half_a_sample.wav": lambda _: wav(FMT, chunk(b"data", SAMPLES[:-1])),
    "long_bext.wav": lambda _: wav(chunk(b"bext", bytes(200_000)), FMT, chunk(b"data", SAMPLES)),
    "an_avif_behind.mp4": lambda plain: read("front.mp4")(plain) + read("a.avif")(plain),
    "zeros_behind.mp4": lambda plain: read("front.mp4")(plain) + bytes(100_000),
    "zeros_behind.mkv": lambda plain: read("a.mkv")(plain) + bytes(100_000),
    "twice.mp4": lambda plain: read("front.mp4")(plain) * 2,
    "twice.webm": lambda plain: read("vp8.webm")(plain) * 2,
    "from_its_middle.mp3": lambda plain: read("a.mp3")(plain)[333:],
    "large_cover.mp3": lambda plain: id3(10, PNG.getvalue() + bytes(1_500_000)) + read("a.mp3")(plain),
    "UPPER.MP4": read("front.mp4"),
    "-dash \U0001f600 %20'\".wav": read("pcm.wav"),
    "가" * 83 + ".wav": read("pcm.wav"),
}


def odd_files(folder: Path, plain: Path) -> list[Path]:
    """Unusual but complete files; each is opened by some player or browser.

    Args:
        plain: the folder of `plain_files`.
    """
    made = [mux(folder / name, **SHORT | options) for name, options in ODD.items()]
    for name, write in WRITTEN.items():
        write(folder / name)
        made.append(folder / name)
    for name, change in CHANGED.items():
        (folder / name).write_bytes(change(plain))
        made.append(folder / name)
    return made
