//! `lamina-operator`.

fn main() {}
