//! PAX extended header records: `"LEN KEY=VALUE\n"`, LEN counting itself.
//!
//! Owns their strict decoding. Later records win; an empty value takes the
//! record back. NUL inside a path is refused, as Go's reader does. Source:
//! POSIX.1-2017 `pax`, "pax Extended Header".

use std::collections::BTreeMap;

use base64::Engine as _;
use lamina_flist::Timestamp;

/// Decoded records of one `x` header.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) linkpath: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<Timestamp>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) sparse: PaxSparse,
}

/// The `GNU.sparse.*` records.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    /// `realsize` (1.0) or `size` (0.x).
    pub(crate) realsize: Option<u64>,
    /// 0.1: `offset,length,offset,length...`
    pub(crate) map: Option<Vec<u8>>,
    /// 0.0: repeated `offset` / `numbytes` records, in order.
    pub(crate) numbers: Vec<u64>,
    pub(crate) numblocks: Option<u64>,
}

impl PaxSparse {
    pub(crate) fn is_present(&self) -> bool {
        *self != Self::default()
    }
}

/// Decodes a whole block of records; the error says what is wrong.
pub(crate) fn parse(mut data: &[u8]) -> Result<Pax, &'static str> {
    let mut pax = Pax::default();
    while !data.is_empty() {
        let (key, value, rest) = record(data)?;
        apply(&mut pax, key, value)?;
        data = rest;
    }
    Ok(pax)
}

type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(data: &[u8]) -> Result<Record<'_>, &'static str> {
    let space = data
        .iter()
        .take(21)
        .position(|b| *b == b' ')
        .ok_or("no record length")?;
    let len = decimal(&data[..space]).ok_or("a record length is no number")?;
    let len = usize::try_from(len).map_err(|_| "a record length is no number")?;
    if len > data.len() || len <= space + 1 {
        return Err("a record length does not fit");
    }
    let (body, rest) = data.split_at(len);
    let body = body[space + 1..]
        .strip_suffix(b"\n")
        .ok_or("a record does not end in a newline")?;
    let equals = body
        .iter()
        .position(|b| *b == b'=')
        .ok_or("a record has no `=`")?;
    if equals == 0 {
        return Err("a record has no key");
    }
    Ok((&body[..equals], &body[equals + 1..], rest))
}

fn apply(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    match key {
        b"path" => pax.path = text(value)?,
        b"linkpath" => pax.linkpath = text(value)?,
        b"size" => pax.size = count(value, "size is no number")?,
        b"uid" => pax.uid = count(value, "uid is no number")?,
        b"gid" => pax.gid = count(value, "gid is no number")?,
        b"mtime" => {
            pax.mtime = some_unless_empty(value, |v| timestamp(v).ok_or("mtime is no time"))?;
        }
        b"GNU.sparse.major" => pax.sparse.major = count(value, "GNU.sparse.major is no number")?,
        b"GNU.sparse.minor" => pax.sparse.minor = count(value, "GNU.sparse.minor is no number")?,
        b"GNU.sparse.name" => pax.sparse.name = text(value)?,
        b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
            pax.sparse.realsize = count(value, "the sparse size is no number")?;
        }
        b"GNU.sparse.map" => pax.sparse.map = Some(value.to_vec()),
        b"GNU.sparse.numblocks" => {
            pax.sparse.numblocks = count(value, "GNU.sparse.numblocks is no number")?;
        }
        b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => sparse_number(pax, key, value)?,
        _ => xattr(pax, key, value)?,
    }
    Ok(())
}

/// Sparse 0.0 repeats `offset` and `numbytes` strictly in turn.
fn sparse_number(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    let expects_offset = pax.sparse.numbers.len().is_multiple_of(2);
    if expects_offset != (key == b"GNU.sparse.offset") {
        return Err("GNU.sparse.offset and numbytes do not alternate");
    }
    pax.sparse
        .numbers
        .push(decimal(value).ok_or("a sparse offset is no number")?);
    Ok(())
}

fn xattr(pax: &mut Pax, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
        pax.xattrs
            .insert(xattr_name(name.to_vec())?, value.to_vec());
    } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
        let name = xattr_name(percent_decoded(name).ok_or("an xattr name is badly encoded")?)?;
        let value = base64::engine::general_purpose::STANDARD_NO_PAD
            .decode(
                value
                    .trim_ascii_end()
                    .split(|b| *b == b'=')
                    .next()
                    .unwrap_or_default(),
            )
            .map_err(|_| "an xattr value is no base64")?;
        // libarchive writes both spellings; the raw one is exact.
        pax.xattrs.entry(name).or_insert(value);
    }
    Ok(())
}

fn xattr_name(name: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    match name.len() {
        0 => Err("an xattr has no name"),
        256.. => Err("an xattr name is over 255 bytes"),
        _ if name.contains(&0) => Err("an xattr name holds NUL"),
        _ => Ok(name),
    }
}

fn percent_decoded(name: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(b) = bytes.next() {
        if *b != b'%' {
            out.push(*b);
            continue;
        }
        let high = (*bytes.next()? as char).to_digit(16)?;
        let low = (*bytes.next()? as char).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    Some(out)
}

fn some_unless_empty<T>(
    value: &[u8],
    read: impl Fn(&[u8]) -> Result<T, &'static str>,
) -> Result<Option<T>, &'static str> {
    if value.is_empty() {
        Ok(None)
    } else {
        read(value).map(Some)
    }
}

fn text(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a path record holds NUL");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn count(value: &[u8], why: &'static str) -> Result<Option<u64>, &'static str> {
    some_unless_empty(value, |v| decimal(v).ok_or(why))
}

pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `[-]SECONDS[.FRACTION]`; digits past nanoseconds are cut off.
fn timestamp(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |b| *b == b'.');
    let secs = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for i in 0..9 {
            nanos = nanos * 10 + fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
        }
    }
    Some(match (negative, nanos) {
        (false, _) => Timestamp { secs, nanos },
        (true, 0) => Timestamp {
            secs: -secs,
            nanos: 0,
        },
        (true, _) => Timestamp {
            secs: -secs - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(key: &str, value: &[u8]) -> Vec<u8> {
        crate::tar::testing::pax_record(key.as_bytes(), value)
    }

    #[test]
    fn later_records_win_and_empty_ones_delete() {
        let block = [one("path", b"a"), one("path", b"b"), one("size", b"12")].concat();
        let pax = parse(&block).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"b"[..]));
        assert_eq!(pax.size, Some(12));
        let block = [one("path", b"a"), one("path", b"")].concat();
        assert_eq!(parse(&block).unwrap().path, None);
    }

    #[test]
    fn times_have_nanoseconds_and_may_be_negative() {
        for (text, secs, nanos) in [
            (&b"1"[..], 1, 0),
            (b"1.5", 1, 500_000_000),
            (b"1.0000000019", 1, 1),
            (b"-1.25", -2, 750_000_000),
            (b"-3", -3, 0),
        ] {
            assert_eq!(timestamp(text), Some(Timestamp { secs, nanos }), "{text:?}");
        }
        assert_eq!(timestamp(b"1.x"), None);
        assert_eq!(timestamp(b""), None);
    }

    #[test]
    fn both_spellings_of_xattrs_are_read() {
        let block = [
            one("LIBARCHIVE.xattr.user.a%3db", b"aGk="),
            one("SCHILY.xattr.security.capability", b"\x01\0\n="),
        ]
        .concat();
        let pax = parse(&block).unwrap();
        assert_eq!(pax.xattrs[&b"user.a=b"[..]], b"hi");
        assert_eq!(pax.xattrs[&b"security.capability"[..]], b"\x01\0\n=");
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"6 a=b"[..],
            b"6 a=bc",
            b"99 path=x\n",
            b"x a=b\n",
            b"3 \n",
            b"5 =b\n",
            b"5 ab\n",
            b"18446744073709551616 a=b\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&one("path", b"a\0b")).is_err());
        assert!(parse(&one("size", b"-1")).is_err());
        assert!(parse(&one("GNU.sparse.numbytes", b"1")).is_err());
    }
}
