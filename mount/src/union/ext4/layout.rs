//! How the blocks of a file system are divided among groups and what they are for.

/// Bytes of a block.
pub(super) const BLOCK: u64 = 4096;
/// Blocks of a group: as many as a block has bits.
pub(super) const GROUP: u64 = 8 * BLOCK;
pub(super) const INODE: u64 = 256;
const INODES_PER_BLOCK: u64 = BLOCK / INODE;
/// One file for so many bytes, on average: small files are what programs write most.
const BYTES_PER_INODE: u64 = 8192;
const INODES_MIN: u64 = 64;
pub(super) const DESCRIPTOR: u64 = 32;
/// Blocks beside the data asked for: directories that are there from the start.
pub(super) const SPARE: u64 = 16;
/// The kernel keeps a fiftieth back, and never more blocks than these (`ext4_calculate_resv_clusters`).
pub(super) const RESERVE_MAX: u64 = 4096;
/// Blocks are counted in 32 bits.
const BLOCKS_MAX: u64 = 1 << 32;

/// How a file system is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::union) struct Layout {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    pub(super) inodes_per_group: u64,
}

impl Layout {
    /// One that holds `bytes` of files and a little more; none where that is too much for the format.
    pub(in crate::union) fn holding(bytes: u64) -> Option<Self> {
        let data = bytes.div_ceil(BLOCK).checked_add(SPARE)?;
        if data >= BLOCKS_MAX {
            return None;
        }
        let wanted =
            (data * BLOCK / BYTES_PER_INODE).clamp(INODES_MIN, GROUP * BLOCK / BYTES_PER_INODE);
        let mut layout = Self {
            blocks: 0,
            groups: 1,
            inodes_per_group: wanted.next_multiple_of(INODES_PER_BLOCK),
        };
        loop {
            let used = 1 + layout.descriptor_blocks() + layout.groups * layout.own_blocks();
            // A fiftieth of the whole is a forty-ninth of the rest.
            let reserve = ((data + used) / 49 + 1).min(RESERVE_MAX);
            layout.blocks = data + used + reserve;
            let groups = layout.blocks.div_ceil(GROUP);
            if groups <= layout.groups {
                break;
            }
            layout.groups = groups;
        }
        // A last group has room for what is its own.
        let before = (layout.groups - 1) * GROUP;
        layout.blocks = layout.blocks.max(before + layout.own_blocks() + 1);
        (layout.blocks < BLOCKS_MAX).then_some(layout)
    }

    /// Bytes of the whole file system.
    pub(in crate::union) fn bytes(&self) -> u64 {
        self.blocks * BLOCK
    }

    pub(super) fn descriptor_blocks(&self) -> u64 {
        (self.groups * DESCRIPTOR).div_ceil(BLOCK)
    }

    fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES_PER_BLOCK
    }

    /// Bitmaps and inode table of a group.
    pub(super) fn own_blocks(&self) -> u64 {
        2 + self.table_blocks()
    }

    /// Where a group's block bitmap is; inode bitmap and table follow.
    pub(super) fn own_at(&self, group: u64) -> u64 {
        match group {
            0 => 1 + self.descriptor_blocks(),
            _ => group * GROUP,
        }
    }

    pub(super) fn group_blocks(&self, group: u64) -> u64 {
        (self.blocks - group * GROUP).min(GROUP)
    }

    /// Blocks in use at the start of a group.
    pub(super) fn used(&self, group: u64) -> u64 {
        let own = self.own_at(group) + self.own_blocks() - group * GROUP;
        match group {
            // The root directory.
            0 => own + 1,
            _ => own,
        }
    }

    pub(super) fn free(&self, group: u64) -> u64 {
        self.group_blocks(group) - self.used(group)
    }

    pub(super) fn root_block(&self) -> u64 {
        self.own_at(0) + self.own_blocks()
    }
}
