"""Online room: a bundle becomes a Triton model repository and a running server, or a refusal that says why."""
