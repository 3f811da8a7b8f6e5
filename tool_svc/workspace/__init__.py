"""Files of a workspace: which there are, which may be read, and reading them without leaving the root."""
