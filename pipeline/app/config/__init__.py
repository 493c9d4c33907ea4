"""The configuration: one TOML file and the environment, made into one `Job`.

Nothing else reads either. An unknown key is an error with a "did you mean"; a relative path starts at
the folder of the file; secrets come from the environment or from a file that it names, never from the
TOML. docs/configuration.md is made from these options.
"""
