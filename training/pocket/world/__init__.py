"""The toy world: avatars drawn from attributes, moved by poses, with ground truth and captions.

    attributes = sample_attributes(8, seed=1)                         # attributes.py: who
    actions = sample_actions(8, seed=2)                               # motion.py: what they do
    pose = sample_motion(8, 81, seed=3, actions=actions)              # motion.py: how they move
    pose = pose.speaking(mouth_track(sounds, 81).mouth)               # visemes.py: what they say
    pictures = render(attributes, pose, (128, 128), "cuda")           # figure.py: [8, 81, 3, 128, 128] in 0..1
    known = truth(attributes, pose, (128, 128), "cuda")               # truth.py: masks, opening, landmarks
    text = caption(attributes, 0, seed=4, actions=actions[0])         # captions.py: words for the first one

Everything random is drawn on the CPU by seed, so that any device draws the same world.
"""
