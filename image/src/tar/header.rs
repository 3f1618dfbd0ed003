//! One 512-byte tar header block, decoded without judging it.
//!
//! ```text
//! 0 name[100] | 100 mode[8] uid[8] gid[8] | 124 size[12] mtime[12] | 148 chksum[8]
//! 156 typeflag | 157 linkname[100] | 257 magic+version[8] | 265 uname[32] gname[32]
//! 329 devmajor[8] devminor[8] | 345 prefix[155]   (ustar)
//!                             | 345 atime[12] ctime[12] .. 386 sparse[4x24] isextended realsize[12] (GNU)
//!                             | 345 prefix[131] atime[12] ctime[12] .. "tar\0" (star)
//! ```
//! Numbers are octal text or, with the top bit set, base-256 (GNU). Sources:
//! POSIX.1-2017 `pax`, GNU tar manual "Basic Tar Format".

/// Bytes of a header and unit of padding.
pub(crate) const BLOCK: usize = 512;

/// Which fields the bytes after 345 hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A field that is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadNumber(pub(crate) &'static str);

/// Offset and length in a sparse map.
pub(crate) type Pair = (i128, i128);

/// A view of one header block.
pub(crate) struct Header<'a>(pub(crate) &'a [u8; BLOCK]);

impl Header<'_> {
    pub(crate) fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }

    /// Whether the stored checksum fits, counted unsigned (POSIX) or signed
    /// (old Sun tar).
    pub(crate) fn checksum_fits(&self) -> bool {
        let Ok(stored) = number(&self.0[148..156], "chksum") else {
            return false;
        };
        let mut unsigned = 0i64;
        let mut signed = 0i64;
        for (i, b) in self.0.iter().enumerate() {
            let b = if (148..156).contains(&i) { b' ' } else { *b };
            unsigned += i64::from(b);
            signed += i64::from(b.cast_signed());
        }
        i128::from(unsigned) == stored || i128::from(signed) == stored
    }

    pub(crate) fn dialect(&self) -> Dialect {
        match &self.0[257..265] {
            b"ustar  \0" => Dialect::Gnu,
            m if m.starts_with(b"ustar\0") && &self.0[508..512] == b"tar\0" => Dialect::Star,
            m if m.starts_with(b"ustar\0") => Dialect::Ustar,
            _ => Dialect::V7,
        }
    }

    pub(crate) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the ustar or star prefix in front.
    pub(crate) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = match self.dialect() {
            Dialect::Ustar => until_nul(&self.0[345..500]),
            Dialect::Star => until_nul(&self.0[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(crate) fn linkname(&self) -> Vec<u8> {
        until_nul(&self.0[157..257]).to_vec()
    }

    pub(crate) fn mode(&self) -> Result<i128, BadNumber> {
        number(&self.0[100..108], "mode")
    }

    pub(crate) fn uid(&self) -> Result<i128, BadNumber> {
        number(&self.0[108..116], "uid")
    }

    pub(crate) fn gid(&self) -> Result<i128, BadNumber> {
        number(&self.0[116..124], "gid")
    }

    pub(crate) fn size(&self) -> Result<i128, BadNumber> {
        number(&self.0[124..136], "size")
    }

    pub(crate) fn mtime(&self) -> Result<i128, BadNumber> {
        number(&self.0[136..148], "mtime")
    }

    /// Major and minor. A v7 header has none; empty fields are 0.
    pub(crate) fn device(&self) -> Result<(i128, i128), BadNumber> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        Ok((
            number(&self.0[329..337], "devmajor")?,
            number(&self.0[337..345], "devminor")?,
        ))
    }

    /// Old GNU sparse: up to 4 pairs, whether extension blocks follow, and the
    /// real size.
    pub(crate) fn gnu_sparse(&self) -> Result<(Vec<Pair>, bool, i128), BadNumber> {
        let pairs = sparse_pairs(&self.0[386..482])?;
        Ok((
            pairs,
            self.0[482] != 0,
            number(&self.0[483..495], "realsize")?,
        ))
    }
}

/// The (offset, length) pairs of a GNU sparse header or extension block; the
/// list ends at the first empty pair.
pub(crate) fn sparse_pairs(bytes: &[u8]) -> Result<Vec<Pair>, BadNumber> {
    let mut pairs = Vec::new();
    for pair in bytes.as_chunks::<24>().0 {
        if pair[0] == 0 || pair[12] == 0 {
            break;
        }
        pairs.push((
            number(&pair[..12], "sparse offset")?,
            number(&pair[12..], "sparse length")?,
        ));
    }
    Ok(pairs)
}

fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|b| *b == 0).unwrap_or(field.len())]
}

/// Octal text (spaces before, space or NUL after; empty is 0) or base-256.
fn number(field: &[u8], what: &'static str) -> Result<i128, BadNumber> {
    if field[0] & 0x80 != 0 {
        return base256(field).ok_or(BadNumber(what));
    }
    let text = field.trim_ascii_start();
    let digits = text
        .iter()
        .take_while(|b| (b'0'..=b'7').contains(*b))
        .count();
    let (digits, rest) = text.split_at(digits);
    // After the digits only the terminator counts; old writers leave junk behind it.
    if !matches!(rest.first(), None | Some(0 | b' ')) {
        return Err(BadNumber(what));
    }
    Ok(digits.iter().fold(0, |n, b| n * 8 + i128::from(b - b'0')))
}

/// Two's complement, big endian, in all bits but the marking top one.
fn base256(field: &[u8]) -> Option<i128> {
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, b) in field.iter().enumerate() {
        let b = match (i, negative) {
            (0, false) => b & 0x7f,
            (0, true) => b | 0x80,
            _ => *b,
        };
        value = value.checked_mul(256)? | i128::from(b);
    }
    i64::try_from(value).ok().map(i128::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        for (field, want) in [
            (&b"0000644\0"[..], Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"        ", Ok(0)),
            (b"77777777", Ok(0o77_777_777)),
            (b"\x80\0\0\0\0\0\x01\0", Ok(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
            (b"0x12\0\0\0\0", Err(BadNumber("f"))),
            (b"-1\0\0\0\0\0\0", Err(BadNumber("f"))),
            (b"8\0\0\0\0\0\0\0", Err(BadNumber("f"))),
            (
                b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
                Err(BadNumber("f")),
            ),
        ] {
            assert_eq!(number(field, "f"), want, "{field:?}");
        }
    }
}
