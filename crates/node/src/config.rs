//! Configuration: TOML, overridden by the environment; an unknown key is an error that names it.
