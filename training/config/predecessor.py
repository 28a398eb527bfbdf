"""Flags of the predecessor's training script: which work here, and what replaces the others.

Those with the name of a field of `TrainingConfig` are not listed, since they work as they are.
"""

# the same setting under another name
RENAMED = {
    "output_dir": "run",
    "network_alpha": "alpha",
    "network_dim": "rank",
    "lora_rank": "rank",
    "lora_alpha": "alpha",
    "adam_weight_decay": "weight_decay",
}

# values for which nothing has to be set, since every training here is so; "true" is a flag without a value
ALWAYS = {
    "motion_sub_loss": "true",
    "motion_sub_loss_ratio": "0.25",
    "low_vram": "true",  # text encoder, VAE and audio encoder are not in memory, since samples are encoded before
    "uniform_sampling": "true",
    "weighting_scheme": "none",
    "train_sampling_steps": "1000",
    "adam_beta1": "0.9",
    "adam_beta2": "0.999",
    "adam_epsilon": "1e-08",
    "noise_offset": "0",
    "input_perturbation": "0",
    "train_mode": "normal",
    "report_to": "tensorboard",
    "resume_from_checkpoint": "latest",
    "save_state": "true",
    "keep_all_node_same_token_length": "true",
    "enable_text_encoder_in_dataloader": "true",
    "video_repeat": "0",
    "image_repeat_in_forward": "0",
    "noise_share_in_frames_ratio": "0.5",  # of noise_share_in_frames, which is refused
    "logit_mean": "0.0",
    "logit_std": "1.0",
    "mode_scale": "1.29",  # these three of weighting schemes, which are refused
}

_ENCODE = "samples are encoded before the training: python -m training.encode"
_WEIGHTS = "weights are found by their profile: --profile full, in the folder that WANAVATAR_WEIGHTS names"
_LAUNCHER = "accelerate starts the processes: accelerate launch --config_file training/configs/zero2.yaml"
_SAMPLES = (
    "clips are encoded for all shapes at once: python -m training.encode --data LIST --aspects rec,square,vec, and "
)
_SAMPLES += "its folder is --samples"
_HELD_OUT = "sample clips are of held-out clips: --sample_every_n_steps 100"
_FIXED = "it cannot be changed here; leave it out"

INSTEAD = {
    "train_data_dir": _SAMPLES,
    "train_data_rec_dir": _SAMPLES,
    "train_data_square_dir": _SAMPLES,
    "train_data_vec_dir": _SAMPLES,
    "video_sample_n_frames": f"{_ENCODE} --frames 81",
    "max_train_samples": f"give fewer clips: {_ENCODE} --data LIST",
    "random_flip": "a mirrored face is another face; leave it out",
    "random_ratio_crop": f"{_ENCODE} --aspects rec,square,vec",
    "random_frame_crop": f"{_ENCODE} --frames 81",
    "random_hw_adapt": f"{_ENCODE} --aspects rec,square,vec",
    "train_mode": f"for inpainting {_ENCODE} --inpaint, and then --patch_embedding_rate 1e-5",
    "vae_mini_batch": f"{_ENCODE}, one clip at a time; leave it out",
    "dataloader_num_workers": "samples are read as they are needed, in milliseconds; leave it out",
    "tokenizer_max_length": f"{_ENCODE}, with texts of up to 512 tokens; leave it out",
    "enable_text_encoder_in_dataloader": f"{_ENCODE}; leave it out",
    "train_text_encoder": "the text encoder is not trained; leave it out",
    "vocal_window_size": "the audio encoder sees the whole clip; leave it out",
    "pretrained_model_name_or_path": _WEIGHTS,
    "pretrained_wav2vec_path": _WEIGHTS,
    "pretrained_musicfm_stat_path": _WEIGHTS,
    "pretrained_musicfm_model_path": _WEIGHTS,
    "vae_path": _WEIGHTS,
    "cache_dir": _WEIGHTS,
    "revision": _WEIGHTS,
    "variant": _WEIGHTS,
    "non_ema_revision": _WEIGHTS,
    "config_path": f"{_WEIGHTS}; settings of the training are in --config",
    "transformer_path": "a LoRA or parts to start from: --init_from",
    "resume_from_checkpoint": "the newest checkpoint in --run is resumed. To go back to an earlier one, remove those "
    "after it; for a new run that starts with its weights: --init_from",
    "save_state": _FIXED,
    "use_ema": "--ema_decay 0.999",
    "use_8bit_adam": "--optimizer adamw8bit",
    "use_came": "AdamW is the optimizer; leave it out",
    "adam_beta1": _FIXED,
    "adam_beta2": _FIXED,
    "adam_epsilon": _FIXED,
    "scale_lr": "give the scaled rate: --learning_rate",
    "allow_tf32": "the network computes in bfloat16: --mixed_precision bf16",
    "multi_stream": "tensors are copied beside the computation already: --offload all",
    "low_vram": "--recipe s2v_14b_24gb, or --base_dtype fp8, --swap_blocks 30 and --offload all",
    "use_deepspeed": _LAUNCHER,
    "local_rank": _LAUNCHER,
    "validation_epochs": "--validation_steps",
    "validation_prompts": _HELD_OUT,
    "validation_reference_path": _HELD_OUT,
    "validation_driven_audio_path": _HELD_OUT,
    "prediction_type": "the network predicts the flow; leave it out",
    "snr_loss": "weights of the loss are --loss and --loss_floor",
    "weighting_scheme": "noise levels are uniform, and then shifted: --flow_shift",
    "uniform_sampling": "noise levels are uniform, and then shifted: --flow_shift",
    "logit_mean": "noise levels are uniform, and then shifted: --flow_shift",
    "logit_std": "noise levels are uniform, and then shifted: --flow_shift",
    "mode_scale": "noise levels are uniform, and then shifted: --flow_shift",
    "train_sampling_steps": "noise levels are continuous; leave it out",
    "motion_sub_loss": "motion is a quarter of the loss; leave it out",
    "motion_sub_loss_ratio": "motion is a quarter of the loss; leave it out",
    "noise_share_in_frames": "noise is drawn for every frame, as in sampling; leave it out",
    "noise_share_in_frames_ratio": "noise is drawn for every frame, as in sampling; leave it out",
    "noise_offset": "noise is drawn as in sampling; leave it out",
    "input_perturbation": "noise is drawn as in sampling; leave it out",
    "video_repeat": "--num_train_epochs",
    "image_repeat_in_forward": "--num_train_epochs",
    "keep_all_node_same_token_length": _FIXED,
    "report_to": "tensorboard --logdir RUN, and metrics.jsonl in --run",
    "logging_dir": "the log is in the folder of the run: --run",
    "tracker_project_name": "the log is in the folder of the run: --run",
    "push_to_hub": "lora_weights.safetensors of a checkpoint can be uploaded by hf upload; leave it out",
    "hub_token": "lora_weights.safetensors of a checkpoint can be uploaded by hf upload; leave it out",
    "hub_model_id": "lora_weights.safetensors of a checkpoint can be uploaded by hf upload; leave it out",
}
