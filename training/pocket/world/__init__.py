"""The toy world: avatars drawn from attributes, moved by poses, with ground truth and captions."""
