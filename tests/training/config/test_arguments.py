"""What a command line says of a run, to who trains at once and to who starts a run apart."""

import argparse
import json
import re
from pathlib import Path

import pytest

from training.config import TrainingConfig
from training.config.arguments import add_config, config_of
from training.config.predecessor import ALWAYS, INSTEAD, RENAMED
from training.config.recipes import s2v_14b_2gpu
from training.config.training_config import GROUPS
from training.launch import launch
from wanavatar_lab.errors import LabError


def read(*words: str | Path) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    add_config(parser)
    return config_of(parser.parse_args(list(map(str, words))))


def test_what_is_said_more_closely_counts(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"samples": "from_file", "run": "from_file", "rank": 8, "seed": 3, "base_dtype": "fp8"}))
    words = ("--recipe", "s2v_14b_2gpu", "--config", file, "--run", "mine", "--set", "rank", "4")
    wanted = s2v_14b_2gpu() | {"rank": 4, "seed": 3, "base_dtype": "fp8", "samples": "from_file", "run": "mine"}
    assert read(*words, "--set", "init_from", "old") == TrainingConfig(init_from=Path("old"), **wanted)


@pytest.mark.filterwarnings("ignore:Old names")
def test_old_names_count_as_the_new_ones_do(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"samples": "a", "run": "b", "steps": 30, "accumulation": 3}))
    found = read("--recipe", "pocket", "--config", file, "--set", "accumulation", "5")
    assert (found.max_train_steps, found.gradient_accumulation_steps, found.lr_warmup_steps) == (30, 5, 10)


# in the order of the fields, values that differ from the defaults
OTHERS = """--samples a --run b --init_from c --profile pocket --seed 5 --deterministic --rank 7 --alpha 3
    --audio_encoder_rate 1e-6 --audio_injectors_rate 2e-6 --patch_embedding_rate 3e-6 --ema_decay 0.9
    --optimizer adamw8bit --learning_rate 2e-5
    --lr_scheduler cosine --lr_warmup_steps 3 --weight_decay 0.1 --max_grad_norm 2
    --skipped_steps_limit 2 --num_train_epochs 4 --max_train_steps 9 --train_batch_size 2
    --gradient_accumulation_steps 3 --flow_shift 2.5 --conditioning_dropout_prob 0.2 --loss paper --loss_floor 0.1
    --checkpointing_steps 6 --checkpoints_total_limit 4 --metric_for_best_model validation/face
    --greater_is_better true --early_stopping_patience 3 --validation_steps 8 --sample_every_n_steps 7
    --num_inference_steps 5 --mixed_precision no --base_dtype fp8 --swap_blocks 2 --gradient_checkpointing false
    --keep_attention 2
    --offload all --compile --attention_backend native"""


def test_every_field_is_a_flag_with_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # argparse breaks lines at hyphens
    found, plain = read(*OTHERS.split()), TrainingConfig(samples=Path("d"), run=Path("d"))
    same = [name for name in TrainingConfig.model_fields if getattr(found, name) == getattr(plain, name)]
    assert same == []
    assert (found.rank, found.learning_rate, found.deterministic, found.offload) == (7, 2e-5, True, None)
    assert read(*OTHERS.replace("_", "-").replace("test-", "test_").split()) == found
    parser = argparse.ArgumentParser()
    add_config(parser)
    said = " ".join(parser.format_help().split())
    for name, field in TrainingConfig.model_fields.items():
        assert f"--{name} " in said and " ".join(str(field.description).split()) in said, name
    assert [heading for heading in GROUPS.values() if f" {heading}: --" not in said] == []
    assert not any(f"--{name}" in said for name in RENAMED | ALWAYS | INSTEAD)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--run 5", {"run": Path("5")}),
        ("--max_train_steps null --metric_for_best_model none", {"max_train_steps": None}),
        ("--no-such 1", None),
        ("--learning 1", None),
    ],
)
def test_values_are_read_by_their_type(words: str, expected: dict[str, object] | None) -> None:
    told = ["--samples", "a", "--run", "b", *words.split()]
    if expected is None:
        with pytest.raises(SystemExit):
            read(*told)
    else:
        found = read(*told)
        assert {name: getattr(found, name) for name in expected} == expected


# all flags of the predecessor's script, and those of its README
PREDECESSOR = """input_perturbation pretrained_model_name_or_path revision variant train_data_dir max_train_samples
    validation_prompts output_dir cache_dir seed random_flip use_came multi_stream train_batch_size vae_mini_batch
    num_train_epochs max_train_steps gradient_accumulation_steps gradient_checkpointing learning_rate scale_lr
    lr_scheduler lr_warmup_steps use_8bit_adam allow_tf32 use_ema non_ema_revision dataloader_num_workers adam_beta1
    adam_beta2 adam_weight_decay adam_epsilon max_grad_norm push_to_hub hub_token prediction_type hub_model_id
    logging_dir mixed_precision report_to local_rank checkpointing_steps checkpoints_total_limit
    resume_from_checkpoint noise_offset validation_epochs validation_steps tracker_project_name rank network_alpha
    train_text_encoder snr_loss uniform_sampling enable_text_encoder_in_dataloader random_ratio_crop random_frame_crop
    random_hw_adapt noise_share_in_frames noise_share_in_frames_ratio motion_sub_loss motion_sub_loss_ratio
    keep_all_node_same_token_length train_sampling_steps video_sample_n_frames video_repeat config_path
    image_repeat_in_forward transformer_path vae_path save_state tokenizer_max_length use_deepspeed low_vram train_mode
    weighting_scheme logit_mean logit_std mode_scale vocal_window_size pretrained_wav2vec_path
    pretrained_musicfm_stat_path pretrained_musicfm_model_path validation_reference_path validation_driven_audio_path
    train_data_rec_dir train_data_square_dir train_data_vec_dir lora_rank lora_alpha""".split()


@pytest.mark.parametrize("name", PREDECESSOR)
def test_a_flag_of_the_predecessor_works_or_is_refused_with_what_replaces_it(name: str) -> None:
    told = ["--samples", "a", "--run", "b"]
    field = RENAMED.get(name, name)
    if field in TrainingConfig.model_fields:
        words = OTHERS[OTHERS.index(f"--{field}") :].split()
        value = words[1] if not words[1].startswith("--") else "true"
        if field in ("run", "samples"):
            told = [
                word for pair in zip(told[::2], told[1::2], strict=True) if pair[0] != f"--{field}" for word in pair
            ]
        assert getattr(read(*told, f"--{name}", value), field) == getattr(read(*OTHERS.split()), field)
        return
    if name in ALWAYS:
        assert read(*told, f"--{name}", ALWAYS[name]) == read(*told)
    with pytest.raises(LabError, match=f"^--{name} something is not an option here: ") as refused:
        read(*told, f"--{name}", "something")
    named = re.findall(r"--([a-z][a-z_]+)", str(refused.value).partition(":")[2])
    elsewhere = {"data", "aspects", "frames", "inpaint", "config_file", "config", "logdir", "recipe"}
    assert set(named) <= TrainingConfig.model_fields.keys() | elsewhere
    assert (
        named
        or "leave it out" in str(refused.value)
        or "hf upload" in str(refused.value)
        or "training.encode" in str(refused.value)
    )


def test_flags_without_a_value_and_both_names_of_one() -> None:
    told = ["--samples", "a", "--output_dir", "b"]
    assert read(*told, "--motion_sub_loss", "--low_vram", "--gradient_checkpointing").run == Path("b")
    with pytest.raises(LabError, match="--lora_rank and --rank are the same setting"):
        read(*told, "--rank", "4", "--lora_rank", "8")
    with pytest.raises(LabError, match="--use_ema is not an option here: --ema_decay"):
        read(*told, "--use_ema")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for text in (None, "{", "[1]", "3"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(LabError, match=r"run\.json cannot be read"):
            read("--config", file)


def test_a_file_is_read_as_editors_save_it(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text('{"samples": "a", "run": "b", "rank": 8}', encoding="utf-8-sig")
    assert read("--config", file).rank == 8


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--recipe pocket", "samples"),
        ("--samples a --run b --set rank 0", "rank"),
        ("--samples a --run b --set speed 3", "speed: is no setting"),
        ("--recipe pocket --run b", "^samples: is missing; give --samples$"),
        ("--samples a --run b --metric_for_best_model lip", "must be auto, kind/name, as validation/lip, or null"),
        ("--samples a --run b --profile pockt", r"^profile: must be full or pocket \(got 'pockt'\)$"),
        ("--samples a --run b --early_stopping_patience 2", "^early_stopping_patience .* set validation_steps.$"),
        ("--samples a --run b --early_stopping_patience 2 --metric_for_best_model none", "which is null"),
        ("--samples a --run b --metric_for_best_model samples/lip_r", "set sample_every_n_steps too"),
        ("--samples a --run b --rank big", "^rank: must be a valid integer.*'big'"),
        ("--config gone.json", "gone.json cannot be read"),
        ("--recipe pocket --samples a --run b --processes 2", "2 processes need a launcher"),
        ("--stop gone", "The run in gone is not running"),
    ],
)
def test_what_cannot_be_started_is_said_in_words(
    words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=why):
        launch.main(words.split())
    assert not list(tmp_path.iterdir())


def test_a_run_that_never_was_is_not_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch.main(["--state", str(tmp_path / "gone")])
    assert capsys.readouterr().out == "not started\n"
