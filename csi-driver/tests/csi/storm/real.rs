//! The storm's place on a real node: the driver's socket as kubelet uses it, and the kernel's own list of mounts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use lamina_proto::csi::v1::{NodePublishVolumeRequest, node_client::NodeClient};
use tonic::transport::Channel;

use super::{KINDS, Place, Random};
use crate::driver::{connect, publish};

/// A file that only the directory of a kind has: `/bin` and `/etc` of the image.
const MARKS: [(&str, &str); KINDS as usize] = [("bin", "busybox"), ("etc", "passwd")];

/// A node with Lamina on it, whose mount namespace this process is in.
pub(super) struct Real {
    node: NodeClient<Channel>,
    /// Below kubelet's directory; everything in it is the storm's.
    targets: PathBuf,
    image: String,
    /// Of the calls.
    pub(super) seed: u64,
}

impl Real {
    /// Where the story says: `LAMINA_STORM_SOCKET` is the driver's, `LAMINA_STORM_TARGETS` a directory below
    /// kubelet's plugins, `LAMINA_STORM_IMAGE` one of busybox, `LAMINA_STORM_SEED` a number.
    pub(super) async fn from_environment() -> Option<Self> {
        let of = |name: &str| std::env::var(format!("LAMINA_STORM_{name}"));
        let image = of("IMAGE").ok()?;
        let socket = of("SOCKET").expect("LAMINA_STORM_SOCKET is set with the image");
        Some(Self {
            node: NodeClient::new(connect(socket.into()).await),
            targets: of("TARGETS")
                .expect("LAMINA_STORM_TARGETS is set with the image")
                .into(),
            image,
            seed: of("SEED").map_or(0x1a31, |seed| seed.parse().unwrap()),
        })
    }

    /// Targets that were not removed, and mounts.
    pub(super) fn left(&self) -> Vec<String> {
        let kept = fs::read_dir(&self.targets).into_iter().flatten();
        let kept = kept.map(|entry| entry.unwrap().path().join("mount"));
        let kept = kept.filter(|target| target.exists());
        let mut left: Vec<_> = kept.map(|target| target.display().to_string()).collect();
        left.extend(self.mounts());
        left
    }

    /// Mount points below the storm's directory, one for each mount: what is mounted twice is there twice.
    fn mounts(&self) -> Vec<String> {
        let listed = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = listed.lines().filter_map(|line| line.split(' ').nth(4));
        let below = points.filter(|point| Path::new(point).starts_with(&self.targets));
        below.map(str::to_owned).collect()
    }
}

impl Place for Real {
    fn node(&self) -> NodeClient<Channel> {
        self.node.clone()
    }

    fn target(&self, volume: u64) -> String {
        let target = self.targets.join(format!("{volume}/mount"));
        target.display().to_string()
    }

    fn publish(&self, id: &str, target: &str, kind: u64) -> NodePublishVolumeRequest {
        let mut ask = publish(id, target);
        let mut set = |key: &str, value: &str| ask.volume_context.insert(key.into(), value.into());
        set("lamina.dev/image", &self.image);
        set("subPath", MARKS[kind as usize].0);
        ask
    }

    fn disturb(&self, _: &mut Random) {}

    fn patience(&self) -> u64 {
        2000
    }

    fn shown(&self) -> BTreeMap<String, u64> {
        let mut shown = BTreeMap::new();
        for target in self.mounts() {
            let shows = |(_, mark): &(&str, &str)| Path::new(&target).join(mark).exists();
            let kind = MARKS.iter().position(shows);
            let kind = kind.unwrap_or_else(|| panic!("{target} shows neither directory"));
            let before = shown.insert(target.clone(), kind as u64);
            assert_eq!(before, None, "{target} is mounted twice");
        }
        shown
    }
}
