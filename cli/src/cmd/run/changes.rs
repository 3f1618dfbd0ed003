//! What the command changed, packed as the tar of a layer: for `--diff` and `--commit`.

use super::stop::{Stop, Stoppable};
use crate::args::run::{Net, Run};
use crate::output;
use anyhow::Result;
use lamina_mount::union::scratch::Scratch;
use lamina_runtime::diff::{self, DiffError, Packed};
use lamina_runtime::network_files::NETWORK_FILES;
use lamina_runtime::slots::Slot;
use std::io::Write;

/// The root of a run that has ended.
pub(super) struct Changes<'a> {
    root: &'a Scratch,
    slot: &'a Slot,
    /// What was made to mount something on, and is no change.
    made: Vec<&'static str>,
    stop: &'a Stop,
}

impl<'a> Changes<'a> {
    pub(super) fn of(
        root: &'a Scratch,
        slot: &'a Slot,
        args: &Run,
        stop: &'a Stop,
    ) -> Result<Self> {
        let mut made = root.not_in_image(&diff::MOUNT_POINTS)?;
        if args.net == Net::Host {
            made.extend(NETWORK_FILES.map(|path| path.trim_start_matches('/')));
        }
        Ok(Self {
            root,
            slot,
            made,
            stop,
        })
    }

    pub(super) fn pack<W: Write>(&self, out: W) -> Result<(W, Packed), DiffError> {
        let (changes, image) = (self.root.changes(), self.root.image());
        let out = Stoppable {
            out,
            stop: self.stop.clone(),
        };
        let (out, packed) = diff::pack(changes, image, self.slot.ids(), &self.made, out)?;
        Ok((out.out, packed))
    }
}

/// Names what is left out of both.
pub(super) fn warn(packed: &Packed) {
    if packed.left_out > 0 {
        let names = output::printable(&packed.left_out_names.join(", "));
        eprintln!(
            "warning: {} cannot be in a layer and were left out: {names}",
            output::counted(packed.left_out, "change")
        );
    }
}
