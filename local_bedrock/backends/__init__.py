"""What answers a model call: a script (`script`) or the bundled small model (`llama`)."""
