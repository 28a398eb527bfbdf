"""The FLUX.2-klein family at toy size: a prompt becomes a drawn avatar in four steps.

prompts     what people may ask for, said of a drawn avatar
reading     what a prompt asks for, word by word
words       the tokenizer, learnt from prompts
networks    VAE, text encoder and transformer before training, and the pipeline's folder
embedding   the pipeline's embeddings of prompts, in a form that trains
pictures    drawn pictures in the device's memory
features    how much each patch counts in training
train_vae   first, the VAE
train       then, text encoder and transformer together, by flow matching
distil      last, many guided steps into four
judge       a classifier that says what a picture shows
evaluate    prompts that were held out, made in four steps, judged
"""
