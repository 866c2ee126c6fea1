//! Terraform's command line, as far as it decides about locks: which words are the command, which
//! flags take a value, what `-lock` says.
