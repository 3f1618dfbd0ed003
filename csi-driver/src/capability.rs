//! How a volume may be used: access modes and mount options against the volume's own mode. Pure.

use lamina_proto::csi::v1::{
    VolumeCapability,
    volume_capability::{AccessMode, AccessType, access_mode::Mode as Access},
};
use thiserror::Error;

use crate::attributes::Mode;

/// Mount options that hold for every volume anyway, or only take something away.
const OPTIONS: [&str; 5] = ["ro", "nodev", "nosuid", "noatime", "relatime"];

/// Why a use was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CapabilityError {
    /// Nothing said how.
    #[error("the volume capability is missing")]
    None,
    /// A raw device.
    #[error("a Lamina volume is a directory, not a block device: use volumeMode: Filesystem")]
    Block,
    /// Neither directory nor device.
    #[error("the volume capability does not say that a file system is wanted")]
    NoType,
    /// An access mode without meaning.
    #[error("the access mode is missing or not known")]
    NoMode,
    /// Changes that several nodes would have to see.
    #[error(
        "a volume with mode: rw cannot be shared between nodes, because its changes belong to one mount and are dropped with it: use ReadWriteOnce, or mode: ro"
    )]
    SharedChanges,
    /// An option that would change what is mounted.
    #[error(
        "mount option {0:?} is not possible for a Lamina volume; possible are ro, nodev, nosuid, noatime and relatime"
    )]
    Option(String),
    /// A group for all files.
    #[error(
        "a volume mount group is not possible: the files of a Lamina volume have the owners of the image"
    )]
    Group,
}

/// What one use of a volume allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Files may be changed through it, if the volume's mode allows it.
    pub writes: bool,
    /// No second mount of the volume on the node.
    pub alone: bool,
}

/// What `capability` asks of a volume of this mode.
///
/// # Errors
///
/// Uses that are not possible, see [`CapabilityError`].
pub fn check(capability: Option<&VolumeCapability>, mode: Mode) -> Result<Use, CapabilityError> {
    let capability = capability.ok_or(CapabilityError::None)?;
    let mount = match &capability.access_type {
        Some(AccessType::Mount(mount)) => mount,
        Some(AccessType::Block(_)) => return Err(CapabilityError::Block),
        None => return Err(CapabilityError::NoType),
    };
    if !mount.volume_mount_group.is_empty() {
        return Err(CapabilityError::Group);
    }
    let mut flags = mount.mount_flags.iter().flat_map(|flag| flag.split(','));
    if let Some(flag) = flags.find(|flag| !flag.is_empty() && !OPTIONS.contains(flag)) {
        return Err(CapabilityError::Option(flag.chars().take(80).collect()));
    }
    let access = capability
        .access_mode
        .as_ref()
        .map_or(Access::Unknown, AccessMode::mode);
    let writes = match access {
        Access::Unknown => return Err(CapabilityError::NoMode),
        Access::SingleNodeReaderOnly | Access::MultiNodeReaderOnly => false,
        Access::SingleNodeWriter
        | Access::SingleNodeSingleWriter
        | Access::SingleNodeMultiWriter => true,
        Access::MultiNodeSingleWriter | Access::MultiNodeMultiWriter => match mode {
            Mode::Ro => true,
            Mode::Rw { .. } => return Err(CapabilityError::SharedChanges),
        },
    };
    let read_only = mount
        .mount_flags
        .iter()
        .any(|flag| flag.split(',').any(|f| f == "ro"));
    Ok(Use {
        writes: writes && !read_only,
        alone: access == Access::SingleNodeSingleWriter,
    })
}

#[cfg(test)]
mod tests {
    use lamina_proto::csi::v1::volume_capability::{BlockVolume, MountVolume};
    use lamina_proto::lamina::v1::OverlayMedium;

    use super::*;

    const RW: Mode = Mode::Rw {
        overlay_bytes_max: 1,
        medium: OverlayMedium::Memory,
    };

    fn mount(access: Access, flags: &[&str]) -> VolumeCapability {
        VolumeCapability {
            access_mode: Some(AccessMode {
                mode: access.into(),
            }),
            access_type: Some(AccessType::Mount(MountVolume {
                mount_flags: flags.iter().map(|&f| f.into()).collect(),
                ..MountVolume::default()
            })),
        }
    }

    #[test]
    fn access_modes_by_table() {
        let shared = Err(CapabilityError::SharedChanges);
        let uses = |writes, alone| Ok(Use { writes, alone });
        for (access, ro, rw) in [
            (
                Access::SingleNodeWriter,
                uses(true, false),
                uses(true, false),
            ),
            (
                Access::SingleNodeReaderOnly,
                uses(false, false),
                uses(false, false),
            ),
            (
                Access::MultiNodeReaderOnly,
                uses(false, false),
                uses(false, false),
            ),
            (
                Access::MultiNodeSingleWriter,
                uses(true, false),
                shared.clone(),
            ),
            (Access::MultiNodeMultiWriter, uses(true, false), shared),
            (
                Access::SingleNodeSingleWriter,
                uses(true, true),
                uses(true, true),
            ),
            (
                Access::SingleNodeMultiWriter,
                uses(true, false),
                uses(true, false),
            ),
            (
                Access::Unknown,
                Err(CapabilityError::NoMode),
                Err(CapabilityError::NoMode),
            ),
        ] {
            assert_eq!(check(Some(&mount(access, &[])), Mode::Ro), ro, "{access:?}");
            assert_eq!(check(Some(&mount(access, &[])), RW), rw, "{access:?}");
        }
    }

    #[test]
    fn devices_and_unclear_uses_are_refused() {
        let block = VolumeCapability {
            access_type: Some(AccessType::Block(BlockVolume {})),
            ..mount(Access::SingleNodeWriter, &[])
        };
        let untyped = VolumeCapability {
            access_type: None,
            ..block.clone()
        };
        assert_eq!(check(None, RW), Err(CapabilityError::None));
        assert_eq!(check(Some(&block), RW), Err(CapabilityError::Block));
        assert_eq!(check(Some(&untyped), RW), Err(CapabilityError::NoType));
    }

    #[test]
    fn mount_options_by_table() {
        let with = |flags: &[&str]| check(Some(&mount(Access::SingleNodeWriter, flags)), RW);
        assert!(with(&["nodev,nosuid", "noatime"]).unwrap().writes);
        assert!(!with(&["ro"]).unwrap().writes);
        for flag in ["rw", "dev", "suid", "lowerdir=/etc", "bind", "exec,dev"] {
            assert!(
                matches!(with(&[flag]), Err(CapabilityError::Option(_))),
                "{flag}"
            );
        }
    }
}
