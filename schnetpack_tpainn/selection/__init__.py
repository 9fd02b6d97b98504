"""Which frames of a pool to label next, and the loop of selecting, labelling and tuning."""
