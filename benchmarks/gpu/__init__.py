"""The proof on a GPU: build, gate, latency, ceiling and layers of every engine, as steps that can be resumed."""
