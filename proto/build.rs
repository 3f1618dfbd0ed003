//! Compiles the `.proto` files, without `protoc`.

use std::error::Error;

const FILES: &[&str] = &[
    "lamina/v1/node.proto",
    "csi/v1/csi.proto",
    "pluginregistration/registration.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let set = protox::compile(FILES, ["."])?;
    tonic_prost_build::configure()
        .build_transport(true)
        .compile_fds(set)?;
    Ok(())
}
