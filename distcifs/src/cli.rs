//! Command line types (clap), nothing else.
