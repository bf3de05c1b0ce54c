//! The `litesnap` command.
fn main() {}
