//! Every gRPC contract of Lamina: generated code, documented by the `.proto` files beside it, and what every
//! server needs to keep the protocol that is not in them ([`timeout`], [`broken`]).

pub mod broken;
pub mod timeout;

/// Packages of the `lamina` contract.
pub mod lamina {
    /// Version 1.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("lamina.v1");
    }
}

/// Discovery, as the public AFS project speaks it.
pub mod discovery {
    /// Version 1.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("discovery.v1");
    }
}

/// The layerstore, as the public AFS project speaks it.
pub mod layerstore {
    /// Version 1.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("layerstore.v1");
    }
}

/// Runs of commands, as the public AFS project speaks it, with fields of ours from 100 on.
#[expect(
    missing_docs,
    clippy::pedantic,
    clippy::large_enum_variant,
    reason = "generated"
)]
pub mod afsletpb {
    tonic::include_proto!("afsletpb");
}

/// The cluster's status, as the public AFS project speaks it.
pub mod afsproxy {
    /// Version 1.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("afsproxy.v1");
    }
}

/// Every contract as a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/contracts.bin"));

/// The Container Storage Interface, as far as the driver answers it.
pub mod csi {
    /// Version 1.
    #[expect(missing_docs, clippy::pedantic, reason = "generated")]
    pub mod v1 {
        tonic::include_proto!("csi.v1");
    }
}

/// Registration of plugins with kubelet.
#[expect(missing_docs, clippy::pedantic, reason = "generated")]
pub mod pluginregistration {
    tonic::include_proto!("pluginregistration");
}
