"""The recipe that makes the reference weights: synthetic speech in, safetensors out. Nothing else imports it."""
