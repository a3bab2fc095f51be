"""Accuracy through the real server: word error rates, equal error rates and diarization error rates."""
