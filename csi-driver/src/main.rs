//! `lamina-csi`.

fn main() {}
