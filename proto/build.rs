//! Compiles the `.proto` files, without `protoc`.

use std::error::Error;
use std::path::Path;

const FILES: &[&str] = &[
    "lamina/v1/certificates.proto",
    "lamina/v1/layers.proto",
    "lamina/v1/node.proto",
    "lamina/v1/partials.proto",
    "lamina/v1/placement.proto",
    "lamina/v1/profiles.proto",
    "discovery/v1/discovery.proto",
    "layerstore/v1/layerstore.proto",
    "afslet/v1/afslet.proto",
    "afsproxy/v1/afsproxy.proto",
    "csi/v1/csi.proto",
    "pluginregistration/registration.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true);
    compiler.open_files(FILES)?;
    tonic_prost_build::configure()
        .build_transport(true)
        // Data of layers: taken out of a message without being copied.
        .bytes(".layerstore.v1.ReadLayerResponse.data")
        .bytes(".lamina.v1.Chunk.stored")
        .bytes(".lamina.v1.ReadRecordResponse.data")
        .compile_fds(compiler.file_descriptor_set())?;
    // What the contracts' test compares with; nobody reads comments there.
    let bare = compiler
        .include_source_info(false)
        .encode_file_descriptor_set();
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    std::fs::write(Path::new(&out).join("contracts.bin"), bare)?;
    Ok(())
}
