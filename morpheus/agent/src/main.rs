//! `morpheusd`.
fn main() {}
