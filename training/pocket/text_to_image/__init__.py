"""Training the toy FLUX.2-klein: prompt to drawn avatar in four denoising steps.

prompts     training prompts for a drawn avatar
reading     parse a prompt into the attributes that it requests
words       the tokenizer, trained on prompts
networks    configs and initialisation of VAE, text encoder and transformer; saving the pipeline
embedding   the pipeline's prompt embeddings, position ids, noise levels and velocity, differentiable
pictures    banks of drawn pictures, latents and prompts in device memory
features    loss weights per patch
train_vae   step 1: train the VAE
train       step 2: train text encoder and transformer together by flow matching
distil      step 3: distil many guided steps into four without guidance
judge       a classifier of the attributes that a picture shows
train_judge train that classifier
evaluate    generate held-out prompts in four steps and score them with the judge
"""
