"""The edge: argv, TOML and the environment come in; text and exit codes go out."""
