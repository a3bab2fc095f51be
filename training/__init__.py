"""The training of the reference weights: synthetic speech in, safetensors out. No other package imports it."""
