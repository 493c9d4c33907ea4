"""The operating system: environment, owners of files, temporary folders, confined processes."""
