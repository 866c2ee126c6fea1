//! Nothing: the examples are beside this file.
