"""What each tool's LLM is shown: pure functions of an index, a question, a scope and a token budget."""
