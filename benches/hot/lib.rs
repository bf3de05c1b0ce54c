//! Nothing: a package needs a target that is no benchmark. See `hot.rs`.
