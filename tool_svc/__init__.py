"""The tools: LLM instances with prepared context, run as jobs or directly; and the only access to files."""
