"""What is known of a workspace's files: parsed once per content, kept on disk, refreshed by what changed."""
