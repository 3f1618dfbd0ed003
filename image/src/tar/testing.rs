//! Writes tar bytes for tests: each header field as given, right or wrong.

const BLOCK: usize = 512;

/// One `LEN KEY=VALUE\n` record.
pub(crate) fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut len = body + 1;
    while len.to_string().len() + body != len {
        len = len.to_string().len() + body;
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// A header under construction; `build` computes the checksum.
#[derive(Clone)]
pub(crate) struct Raw {
    pub(crate) block: [u8; BLOCK],
    pub(crate) data: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(name: &[u8], typeflag: u8) -> Self {
        let mut raw = Self {
            block: [0; BLOCK],
            data: Vec::new(),
        };
        raw.put(257, b"ustar\x0000");
        raw.put(0, &name[..name.len().min(100)]);
        raw.block[156] = typeflag;
        raw.put(100, b"0000644\0")
            .put(108, b"0000000\0")
            .put(116, b"0000000\0");
        raw.put(124, b"00000000000\0").put(136, b"00000000001\0");
        raw
    }

    /// A regular file.
    pub(crate) fn file(name: &[u8], data: &[u8]) -> Self {
        let mut raw = Self::new(name, b'0');
        raw.with_data(data);
        raw
    }

    /// A link of either kind.
    pub(crate) fn link(name: &[u8], typeflag: u8, target: &[u8]) -> Self {
        let mut raw = Self::new(name, typeflag);
        raw.put(157, &target[..target.len().min(100)]);
        raw
    }

    /// Overwrites header bytes.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.block[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    pub(crate) fn with_data(&mut self, data: &[u8]) -> &mut Self {
        self.data = data.to_vec();
        self.size(data.len() as u64)
    }

    pub(crate) fn size(&mut self, size: u64) -> &mut Self {
        self.put(124, format!("{size:011o}\0").as_bytes())
    }

    pub(crate) fn mode(&mut self, mode: u32) -> &mut Self {
        self.put(100, format!("{mode:07o}\0").as_bytes())
    }

    /// The GNU dialect: no prefix, sparse fields.
    pub(crate) fn gnu(&mut self) -> &mut Self {
        self.put(257, b"ustar  \0")
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut block = self.block;
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut out = block.to_vec();
        out.extend_from_slice(&self.data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }
}

/// A PAX header with these records.
pub(crate) fn pax(records: &[(&str, &[u8])]) -> Raw {
    let data: Vec<u8> = records
        .iter()
        .flat_map(|(k, v)| pax_record(k.as_bytes(), v))
        .collect();
    let mut raw = Raw::new(b"PaxHeaders/x", b'x');
    raw.with_data(&data);
    raw
}

/// A GNU long name (`L`) or long link (`K`).
pub(crate) fn gnu_long(typeflag: u8, name: &[u8]) -> Raw {
    let mut raw = Raw::new(b"././@LongLink", typeflag);
    raw.gnu().with_data(&[name, b"\0"].concat());
    raw
}

/// The entries, then the end marker.
pub(crate) fn archive(entries: &[Raw]) -> Vec<u8> {
    let mut out: Vec<u8> = entries.iter().flat_map(Raw::build).collect();
    out.resize(out.len() + 2 * BLOCK, 0);
    out
}
