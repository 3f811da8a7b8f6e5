"""A Bedrock Runtime endpoint for one machine: the same wire protocol, scripted or small-model answers, and an invoice."""
