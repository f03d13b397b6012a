//! The `albef` program.
fn main() {}
