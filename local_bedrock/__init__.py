"""A Bedrock Runtime endpoint for one machine: same wire protocol, scripted answers or a small bundled model, and an invoice."""
