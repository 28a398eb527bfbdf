"""The toy world: avatars drawn from attributes, animated by poses, with ground truth and captions.

    attributes = sample_attributes(8, seed=1)                         # attributes.py: looks
    actions = sample_actions(8, seed=2)                               # motion.py: actions
    pose = sample_motion(8, 81, seed=3, actions=actions)              # motion.py: motion
    pose = pose.speaking(mouth_track(sounds, 81).mouth)               # visemes.py: mouth track
    pictures = render(attributes, pose, (128, 128), "cuda")           # figure.py: [8, 81, 3, 128, 128] in 0..1
    known = truth(attributes, pose, (128, 128), "cuda")               # truth.py: masks, opening, landmarks
    text = caption(attributes, 0, seed=4, actions=actions[0])         # captions.py: caption of avatar 0

All random numbers are drawn on the CPU by seed, so that every device renders the same world.
"""
