//! Layers that try to get out, to confuse, or to cost too much: each row gives
//! a named error or a result that stays inside. Whatever converts is unpacked
//! beside a canary that must stay as it is.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use lamina_flist::Flist;
use lamina_image::convert::{ConvertOptions, convert};
use lamina_image::progress::Silent;
use lamina_image::unpack::{UnpackOptions, unpack};
use lamina_image::{Limits, Source};

use crate::convert::chain;
use crate::disk::{disk_listing, require_root};
use crate::images::{Codec, TestImage, gzip, kind, store};
use crate::raw::{Raw, archive, gnu_long, pax};

/// What a row leads to.
enum Want {
    /// An error whose chain of causes says this.
    Error(&'static str),
    /// These names below the root, with their kinds.
    Tree(&'static str),
}
use Want::{Error, Tree};

type Layers = Vec<Vec<Raw>>;

fn file(name: &[u8]) -> Raw {
    Raw::file(name, b"x")
}

fn dir(name: &[u8]) -> Raw {
    Raw::new(name, b'5')
}

fn sym(name: &[u8], to: &[u8]) -> Raw {
    Raw::link(name, b'2', to)
}

fn hard(name: &[u8], to: &[u8]) -> Raw {
    Raw::link(name, b'1', to)
}

fn one(raws: Vec<Raw>) -> Layers {
    vec![raws]
}

fn edited(mut raw: Raw, edit: impl for<'r> FnOnce(&'r mut Raw) -> &'r mut Raw) -> Raw {
    edit(&mut raw);
    raw
}

/// A sparse file of PAX 0.1 with this size and map, storing `x`.
fn sparse(size: &[u8], map: &[u8]) -> Layers {
    one(vec![
        pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)]),
        file(b"s"),
    ])
}

type Row = (&'static str, Layers, Want);

fn paths() -> Vec<Row> {
    let long = [b"d/".repeat(3), vec![b'n'; 256]].concat();
    let mut nul = file(b"f");
    nul.put(0, b"a\0../../evil");
    vec![
        (
            "parent",
            one(vec![file(b"../evil")]),
            Error("`..` component"),
        ),
        (
            "parent inside",
            one(vec![file(b"a/../../evil")]),
            Error("`..` component"),
        ),
        (
            "parent at the end",
            one(vec![dir(b"a/..")]),
            Error("`..` component"),
        ),
        (
            "absolute parent",
            one(vec![file(b"/../evil")]),
            Error("`..` component"),
        ),
        (
            "parent in PAX",
            one(vec![pax(&[("path", b"../evil")]), file(b"ok")]),
            Error("`..`"),
        ),
        (
            "parent in GNU",
            one(vec![gnu_long(b'L', b"x/../../e"), file(b"ok")]),
            Error("`..`"),
        ),
        (
            "parent in prefix",
            one(vec![edited(file(b"evil"), |r| r.put(345, b".."))]),
            Error("`..`"),
        ),
        (
            "absolute",
            one(vec![file(b"/etc/passwd")]),
            Tree("etc dir, etc/passwd file"),
        ),
        (
            "many slashes",
            one(vec![file(b"//a//./b")]),
            Tree("a dir, a/b file"),
        ),
        (
            "empty name",
            one(vec![Raw::new(b"", b'0')]),
            Error("name is empty"),
        ),
        ("NUL ends a ustar name", one(vec![nul]), Tree("a file")),
        (
            "NUL in PAX",
            one(vec![pax(&[("path", b"a\0b")]), file(b"ok")]),
            Error("holds NUL"),
        ),
        (
            "long name",
            one(vec![gnu_long(b'L', &long), file(b"x")]),
            Error("255 is the most"),
        ),
        (
            "long path",
            one(vec![gnu_long(b'L', &b"abcdefgh/".repeat(500)), file(b"x")]),
            Error("4096 is the most"),
        ),
        (
            "deep path",
            one(vec![gnu_long(b'L', &b"a/".repeat(1025)), file(b"x")]),
            Error("more than 1024 components"),
        ),
        (
            "root as a file",
            one(vec![file(b".")]),
            Error("root of the layer"),
        ),
        (
            "root as a link",
            one(vec![sym(b"./", b"/etc")]),
            Error("root of the layer"),
        ),
        (
            "backslashes",
            one(vec![file(b"..\\evil")]),
            Tree("..\\evil file"),
        ),
        (
            "dots",
            one(vec![file(b".../x")]),
            Tree("... dir, .../x file"),
        ),
    ]
}

fn links(canary: &Path) -> Vec<Row> {
    use std::os::unix::ffi::OsStrExt as _;
    let canary = canary.as_os_str().as_bytes();
    let mut nest: Vec<Raw> = (0..50u8)
        .map(|i| sym(&[b'l', b'0' + i], &[b'l', b'1' + i]))
        .collect();
    nest.push(file(b"l0/x"));
    // Each link goes 1,500 directories down and up again through the next.
    let far = b"d/../".repeat(800);
    let mut costly: Vec<Raw> = vec![dir(b"d")];
    for i in 0..30u8 {
        let target = [&far[..], &[b'm', b'1' + i]].concat();
        costly.push(gnu_long(b'K', &target));
        costly.push(sym(&[b'm', b'0' + i], b"x"));
    }
    costly.push(file(b"m0/x"));
    vec![
        (
            "through a link",
            one(vec![sym(b"l", b"/etc"), file(b"l/x")]),
            Tree("etc dir, etc/x file, l link /etc"),
        ),
        (
            "through a link up",
            one(vec![sym(b"l", b"../../.."), file(b"l/x")]),
            Tree("l link ../../.., x file"),
        ),
        (
            "link over a link",
            one(vec![sym(b"l", b"/a"), sym(b"l/m", b"/b"), file(b"l/m/x")]),
            Tree("a dir, a/m link /b, b dir, b/x file, l link /a"),
        ),
        (
            "loop",
            one(vec![sym(b"a", b"b"), sym(b"b", b"a"), file(b"a/x")]),
            Error("symbolic links"),
        ),
        (
            "loop of one",
            one(vec![sym(b"s", b"s"), file(b"s/x")]),
            Error("symbolic links"),
        ),
        ("nested links", one(nest), Error("symbolic links")),
        (
            "costly links",
            one(costly),
            Error("symbolic links or components"),
        ),
        (
            "to the canary, then through",
            one(vec![
                sym(b"l", canary),
                sym(b"keep", b"l/x"),
                dir(b"l"),
                file(b"l/x"),
            ]),
            Tree("keep link l/x, l dir, l/x file"),
        ),
        (
            "directory becomes a link",
            one(vec![file(b"d/y"), sym(b"d", b"/e"), file(b"d/x")]),
            Tree("d link /e, e dir, e/x file"),
        ),
        (
            "empty target",
            one(vec![Raw::new(b"l", b'2')]),
            Error("target is empty"),
        ),
        (
            "long target",
            one(vec![gnu_long(b'K', &[b'a'; 5000]), sym(b"l", b"x")]),
            Error("target is too long"),
        ),
        (
            "below a lower link",
            vec![vec![sym(b"l", b"../../out")], vec![file(b"l/x")]],
            Tree("l link ../../out, out dir, out/x file"),
        ),
        (
            "directory over a lower link",
            vec![vec![sym(b"l", b"/out")], vec![dir(b"l"), file(b"l/x")]],
            Tree("l dir, l/x file"),
        ),
        (
            "below a lower loop",
            vec![vec![sym(b"l", b"l")], vec![file(b"l/x")]],
            Tree("l dir, l/x file"),
        ),
        (
            "whiteout through a lower link",
            vec![
                vec![file(b"etc/a"), sym(b"l", b"etc")],
                vec![file(b"l/.wh.a")],
            ],
            Tree("etc dir, l link etc"),
        ),
        (
            "below a file",
            one(vec![file(b"a"), file(b"a/b")]),
            Error("a is not a directory"),
        ),
        (
            "below a FIFO",
            one(vec![Raw::new(b"a", b'6'), file(b"a/b")]),
            Error("not a directory"),
        ),
        (
            "below a device",
            one(vec![
                edited(Raw::new(b"a", b'3'), |r| r.put(329, b"0000001\0")),
                file(b"a/b"),
            ]),
            Error("not a directory"),
        ),
        (
            "below a lower file",
            vec![vec![file(b"a")], vec![file(b"a/b")]],
            Tree("a dir, a/b file"),
        ),
    ]
}

fn hard_links() -> Vec<Row> {
    let cross = |lower: Vec<Raw>, upper: Vec<Raw>| vec![lower, upper];
    vec![
        (
            "to nothing",
            one(vec![hard(b"h", b"/etc/passwd")]),
            Error("no lower layer has"),
        ),
        (
            "to a parent",
            one(vec![hard(b"h", b"../../etc/passwd")]),
            Error("target that is refused"),
        ),
        (
            "to no name",
            one(vec![Raw::new(b"h", b'1')]),
            Error("target that is refused"),
        ),
        (
            "to a directory",
            one(vec![dir(b"d"), hard(b"h", b"d")]),
            Error("directory"),
        ),
        (
            "to the root",
            one(vec![hard(b"h", b"/")]),
            Error("directory"),
        ),
        (
            "to itself",
            one(vec![hard(b"h", b"h")]),
            Error("does not exist"),
        ),
        (
            "to itself, existing",
            one(vec![file(b"h"), hard(b"h", b"./h")]),
            Error("does not exist"),
        ),
        (
            "forward",
            one(vec![hard(b"h", b"f"), file(b"f")]),
            Error("no lower layer has"),
        ),
        (
            "through a link",
            one(vec![sym(b"l", b"/"), hard(b"h", b"l/etc/passwd")]),
            Error("no lower layer has"),
        ),
        (
            "to a whiteout",
            cross(vec![file(b"f")], vec![file(b".wh.f"), hard(b"h", b"f")]),
            Error("does not exist"),
        ),
        (
            "into an opaque directory",
            cross(
                vec![file(b"d/f")],
                vec![file(b"d/.wh..wh..opq"), hard(b"h", b"d/f")],
            ),
            Error("does not exist"),
        ),
        (
            "to a link",
            one(vec![sym(b"l", b"/etc/passwd"), hard(b"h", b"l")]),
            Tree("h link /etc/passwd, l link /etc/passwd"),
        ),
        (
            "to a lower link",
            cross(vec![sym(b"l", b"/etc/passwd")], vec![hard(b"h", b"l")]),
            Tree("h link /etc/passwd, l link /etc/passwd"),
        ),
        (
            "through a lower link",
            cross(
                vec![file(b"r/f"), sym(b"l", b"r")],
                vec![hard(b"h", b"l/f")],
            ),
            Tree("h file, l link r, r dir, r/f file =h"),
        ),
        (
            "to what is replaced later",
            one(vec![file(b"a"), hard(b"b", b"a"), Raw::new(b"a", b'6')]),
            Tree("a fifo, b file"),
        ),
        (
            "to what the layer hides",
            cross(vec![file(b"d/f")], vec![hard(b"h", b"d/f"), file(b".wh.d")]),
            Tree("h file"),
        ),
        (
            "over its own parent",
            one(vec![file(b"d/f"), hard(b"d", b"d/f")]),
            Error("no lower layer has"),
        ),
        (
            "to a whiteout's name",
            one(vec![file(b".wh.x"), hard(b"h", b".wh.x")]),
            Error("whiteout name"),
        ),
        (
            "to a lower directory",
            cross(vec![dir(b"d")], vec![hard(b"h", b"d")]),
            Error("directory"),
        ),
    ]
}

fn headers() -> Vec<Row> {
    let huge = vec![b'a'; 2 << 20];
    let record = |bytes: &[u8]| edited(Raw::new(b"p", b'x'), |r| r.with_data(bytes));
    let size = |bytes: &'static [u8]| one(vec![edited(file(b"f"), |r| r.put(124, bytes))]);
    let global = edited(pax(&[("path", b"evil"), ("size", b"0")]), |r| {
        r.block[156] = b'g';
        r
    });
    vec![
        (
            "PAX against GNU",
            one(vec![
                pax(&[("path", b"a")]),
                gnu_long(b'L', b"b"),
                file(b"c"),
            ]),
            Error("disagree on its path"),
        ),
        (
            "PAX against GNU link",
            one(vec![
                pax(&[("linkpath", b"a")]),
                gnu_long(b'K', b"b"),
                sym(b"c", b"d"),
            ]),
            Error("disagree on its linkpath"),
        ),
        (
            "PAX twice",
            one(vec![pax(&[("path", b"a")]), pax(&[]), file(b"c")]),
            Error("repeats"),
        ),
        (
            "PAX at the end",
            one(vec![pax(&[("path", b"a")])]),
            Error("no entry follows"),
        ),
        (
            "PAX size below 0",
            one(vec![pax(&[("size", b"-1")]), file(b"f")]),
            Error("size is no number"),
        ),
        (
            "PAX size over the end",
            one(vec![pax(&[("size", b"5000")]), file(b"f")]),
            Error("the archive ends"),
        ),
        (
            "PAX size of exabytes",
            one(vec![pax(&[("size", b"9223372036854775808")]), file(b"f")]),
            Error("is the most"),
        ),
        (
            "PAX size over u64",
            one(vec![pax(&[("size", b"99999999999999999999")]), file(b"f")]),
            Error("no number"),
        ),
        (
            "size below 0",
            size(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            Error("`size` out of range"),
        ),
        (
            "size of letters",
            size(b"hello\0\0\0\0\0\0\0"),
            Error("no number in `size`"),
        ),
        (
            "GNU name of 2 MiB",
            one(vec![gnu_long(b'L', &huge), file(b"f")]),
            Error("1048576 is the most"),
        ),
        (
            "PAX of 2 MiB",
            one(vec![record(&huge), file(b"f")]),
            Error("1048576 is the most"),
        ),
        (
            "unknown type",
            one(vec![Raw::new(b"f", b'Z')]),
            Error("unknown type 0x5a"),
        ),
        (
            "multi-volume",
            one(vec![Raw::new(b"f", b'M')]),
            Error("unknown type 0x4d"),
        ),
        (
            "PAX length",
            one(vec![record(b"99 path=a\n"), file(b"f")]),
            Error("length does not fit"),
        ),
        (
            "PAX length 0",
            one(vec![record(b"0 path=a\n"), file(b"f")]),
            Error("length does not fit"),
        ),
        (
            "PAX newline",
            one(vec![record(b"8 path=a"), file(b"f")]),
            Error("newline"),
        ),
        (
            "PAX without key",
            one(vec![record(b"5 =a\n"), file(b"f")]),
            Error("no key"),
        ),
        (
            "PAX text",
            one(vec![record(b"hello"), file(b"f")]),
            Error("malformed"),
        ),
        (
            "owner over u32",
            one(vec![pax(&[("uid", b"4294967296")]), file(b"f")]),
            Error("`uid` out of range"),
        ),
        (
            "owner below 0",
            one(vec![edited(file(b"f"), |r| r.put(116, &[0xff; 8]))]),
            Error("`gid` out of range"),
        ),
        (
            "device number",
            one(vec![edited(Raw::new(b"d", b'4'), |r| {
                r.put(329, b"7777777\0")
            })]),
            Error("devmajor"),
        ),
        (
            "PAX time",
            one(vec![pax(&[("mtime", b"1e9")]), file(b"f")]),
            Error("mtime is no time"),
        ),
        (
            "global PAX",
            one(vec![global, file(b"good")]),
            Tree("good file"),
        ),
        (
            "GNU magic, ustar prefix",
            one(vec![edited(file(b"f"), |r| r.gnu().put(345, b"evil"))]),
            Tree("f file"),
        ),
        (
            "size of a link",
            one(vec![edited(sym(b"l", b"t"), |r| r.size(5000)), file(b"f")]),
            Tree("f file, l link t"),
        ),
        (
            "sparse overlap",
            sparse(b"9000", b"0,2,1,1"),
            Error("overlap"),
        ),
        (
            "sparse past the end",
            sparse(b"10", b"10,1"),
            Error("past the file"),
        ),
        (
            "sparse overflow",
            sparse(b"10", b"18446744073709551615,1"),
            Error("overflows"),
        ),
        (
            "sparse too little",
            sparse(b"9000", b"0,2"),
            Error("stored bytes"),
        ),
        (
            "sparse too much",
            sparse(b"9000", b"0,0"),
            Error("stored bytes"),
        ),
        (
            "sparse odd map",
            sparse(b"9000", b"0,1,5"),
            Error("odd number"),
        ),
        ("sparse text", sparse(b"9000", b"a,b"), Error("no numbers")),
        (
            "sparse of exabytes",
            sparse(b"18446744073709551615", b"0,1"),
            Error("is the most"),
        ),
        (
            "sparse version",
            one(vec![
                pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.realsize", b"9")]),
                file(b"s"),
            ]),
            Error("unknown sparse version"),
        ),
        (
            "sparse map without end",
            one(vec![
                pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"9"),
                ]),
                Raw::file(b"s", &[&b"200\n"[..], &b"5\n".repeat(254)].concat()),
            ]),
            Error("sparse map does not end"),
        ),
        (
            "sparse map of billions",
            one(vec![
                pax(&[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"9"),
                ]),
                Raw::file(b"s", &[b"9999999999\n".to_vec(), vec![b'0'; 501]].concat()),
            ]),
            Error("too many sparse segments"),
        ),
        (
            "sparse name escapes",
            one(vec![
                pax(&[
                    ("GNU.sparse.size", b"1"),
                    ("GNU.sparse.map", b"0,1"),
                    ("GNU.sparse.name", b"../e"),
                ]),
                file(b"ok"),
            ]),
            Error("`..` component"),
        ),
    ]
}

fn whiteouts() -> Vec<Row> {
    let xattr = |key: &'static str, value: &[u8]| vec![pax(&[(key, value)]), dir(b"d")];
    vec![
        (
            "of nothing",
            one(vec![file(b".wh.")]),
            Error("not a valid whiteout"),
        ),
        (
            "of the directory",
            one(vec![file(b"d/.wh..")]),
            Error("not a valid whiteout"),
        ),
        (
            "of the parent",
            one(vec![file(b"d/.wh...")]),
            Error("not a valid whiteout"),
        ),
        (
            "as a directory",
            one(vec![file(b".wh.d/x")]),
            Error("whiteout name .wh.d"),
        ),
        (
            "opaque as a directory",
            one(vec![file(b".wh..wh..opq/x")]),
            Error("whiteout name"),
        ),
        (
            "aufs",
            one(vec![file(b".wh..wh.plnk"), file(b"f")]),
            Tree("f file"),
        ),
        (
            "opaque root",
            vec![vec![file(b"a/b")], vec![file(b".wh..wh..opq"), file(b"c")]],
            Tree("c file"),
        ),
        (
            "of what is not there",
            vec![vec![file(b"a")], vec![file(b".wh.b")]],
            Tree("a file"),
        ),
        (
            "and again a directory",
            vec![vec![file(b"d/a")], vec![file(b".wh.d"), file(b"d/b")]],
            Tree("d dir, d/b file"),
        ),
        (
            "file, then directory",
            vec![
                vec![file(b"d/a")],
                vec![file(b"d"), dir(b"d"), file(b"d/b")],
            ],
            Tree("d dir, d/b file"),
        ),
        (
            "by a hard link",
            vec![vec![file(b"a")], vec![hard(b".wh.a", b"x")]],
            Tree(""),
        ),
        (
            "by a directory",
            vec![vec![file(b"a"), file(b"b")], vec![dir(b".wh.a")]],
            Tree("b file"),
        ),
        (
            "in the lowest layer",
            one(vec![file(b".wh.a"), file(b"d/.wh..wh..opq")]),
            Tree("d dir"),
        ),
        (
            "by a forged device",
            vec![vec![file(b"a")], vec![Raw::new(b"a", b'3')]],
            Tree(""),
        ),
        (
            "forged opaque",
            vec![
                vec![file(b"d/a")],
                xattr("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ],
            Tree("d dir, d/a file"),
        ),
        (
            "forged redirect",
            one(xattr("SCHILY.xattr.trusted.overlay.redirect", b"/etc")),
            Tree("d dir"),
        ),
        (
            "forged user whiteout",
            one(xattr("SCHILY.xattr.user.overlay.whiteout", b"y")),
            Tree("d dir"),
        ),
        (
            "forged marker",
            vec![
                vec![file(b"d/a")],
                xattr("SCHILY.xattr.trusted.lamina.implicit", b"y"),
            ],
            Tree("d dir, d/a file"),
        ),
        (
            "xattr too large",
            one(xattr("SCHILY.xattr.user.a", &vec![0; 70_000])),
            Error("attributes beyond"),
        ),
        (
            "xattr without name",
            one(xattr("SCHILY.xattr.", b"1")),
            Error("no name"),
        ),
        (
            "xattr name with NUL",
            one(xattr("SCHILY.xattr.user.a\0b", b"1")),
            Error("NUL"),
        ),
        (
            "xattr base64",
            one(xattr("LIBARCHIVE.xattr.user.a", b"!!")),
            Error("no base64"),
        ),
        (
            "xattr percent",
            one(xattr("LIBARCHIVE.xattr.user.%z", b"aa")),
            Error("badly encoded"),
        ),
    ]
}

/// Converts, unpacks, and says what came of it.
async fn outcome(image: &TestImage, base: &Path, limits: Limits) -> Result<String, String> {
    let oci = base.join("oci");
    image.write_layout(&oci);
    let (stores, place) = store(&base.join("store"));
    let options = ConvertOptions {
        limits,
        ..ConvertOptions::default()
    };
    let source: Source = format!("oci:{}", oci.display()).parse().unwrap();
    let done = convert(&source, &place, &options, Arc::new(Silent)).await;
    let done = done.map_err(|e| chain(&e))?;
    let flist = Flist::parse(Bytes::from(done.flist)).unwrap();
    flist.verify_sections().unwrap();
    flist.check(&lamina_flist::Limits::default()).unwrap();
    let tree = flist.to_tree().unwrap();
    let mut first = std::collections::HashMap::new();
    let shown: Vec<String> = tree
        .walk()
        .skip(1)
        .map(|(path, id)| {
            let path = String::from_utf8_lossy(&path).into_owned();
            let twin = first.entry(id).or_insert_with(|| path.clone());
            let linked = kind(&tree, id) == "file" && *twin != path;
            let twin = if linked {
                format!(" ={twin}")
            } else {
                String::new()
            };
            format!("{path} {}{twin}", kind(&tree, id))
        })
        .collect();
    let out = base.join("out");
    let handle = tokio::runtime::Handle::current();
    let unpacked = tokio::task::spawn_blocking(move || {
        unpack(
            &flist,
            &stores,
            &out,
            &UnpackOptions::default(),
            &Silent,
            &handle,
        )
    });
    unpacked
        .await
        .unwrap()
        .map_err(|e| format!("unpack: {}", chain(&e)))?;
    Ok(shown.join(", "))
}

async fn run(rows: Vec<Row>, canary: &Path) {
    let before = disk_listing(canary);
    let mut wrong = Vec::new();
    for (name, layers, want) in rows {
        let dir = tempfile::tempdir().unwrap();
        let got = outcome(&TestImage::new(&layers), dir.path(), Limits::default()).await;
        let right = match (&got, &want) {
            (Err(got), Error(want)) => got.contains(want),
            (Ok(got), Tree(want)) => got == want,
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: {got:?}"));
        }
        let mut beside: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        beside.retain(|n| !["oci", "store", "out"].iter().any(|known| n == known));
        assert!(beside.is_empty(), "{name} wrote {beside:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(disk_listing(canary), before, "the canary changed");
}

fn canary() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x"), b"canary").unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_paths_and_links_stay_inside() {
    require_root("hostile_paths_and_links_stay_inside");
    let canary = canary();
    run(paths(), canary.path()).await;
    run(links(canary.path()), canary.path()).await;
    run(hard_links(), canary.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_headers_are_refused_by_name() {
    require_root("hostile_headers_are_refused_by_name");
    let canary = canary();
    run(headers(), canary.path()).await;
    run(whiteouts(), canary.path()).await;
}

#[test]
fn there_are_enough_rows() {
    let canary = Path::new("/canary");
    let rows = [paths(), links(canary), hard_links(), headers(), whiteouts()];
    assert!(rows.iter().map(Vec::len).sum::<usize>() >= 80);
}

/// An image whose only layer is stored as `stored`.
fn write_stored(base: &Path, stored: &[u8], plain: &[u8]) -> String {
    let image = TestImage {
        layers: vec![plain.to_vec()],
        codec: Codec::Plain,
    };
    let oci = base.join("oci");
    image.write_layout(&oci);
    let blobs = oci.join("blobs/sha256");
    let digest = lamina_image::manifest::sha256(stored).to_string();
    let old = lamina_image::manifest::sha256(plain).to_string();
    std::fs::write(blobs.join(&digest[7..]), stored).unwrap();
    let manifest = String::from_utf8(image.documents().manifest).unwrap();
    // The last descriptor is the layer's; its diff id is only in the config.
    let (head, tail) = manifest.split_at(manifest.find("\"layers\"").unwrap());
    let tail = tail.replace(&old, &digest).replace(
        &format!("\"size\":{}", plain.len()),
        &format!("\"size\":{}", stored.len()),
    );
    let manifest = format!("{head}{tail}");
    let digest = lamina_image::manifest::sha256(manifest.as_bytes()).to_string();
    std::fs::write(blobs.join(&digest[7..]), &manifest).unwrap();
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest, "size": manifest.len() }] });
    std::fs::write(oci.join("index.json"), index.to_string()).unwrap();
    format!("oci:{}", oci.display())
}

async fn stored_outcome(stored: &[u8], plain: &[u8], limits: Limits) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let source: Source = write_stored(dir.path(), stored, plain).parse().unwrap();
    let (_, place) = store(&dir.path().join("store"));
    let options = ConvertOptions {
        limits,
        ..ConvertOptions::default()
    };
    let done = convert(&source, &place, &options, Arc::new(Silent)).await;
    done.map(|_| ()).map_err(|e| chain(&e))
}

/// Name, stored bytes, the plain tar the config names, limits, and what the
/// error says (nothing: accepted).
type StreamRow<'p> = (&'static str, Vec<u8>, &'p [u8], Limits, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn hostile_streams_are_refused_by_name() {
    let plain = archive(&[Raw::file(b"f", &[7; 3000])]);
    let zeros = archive(&[Raw::file(b"zeros", &vec![0; 8 << 20])]);
    let zstd = |data: &[u8]| zstd::encode_all(data, 3).unwrap();
    let tight = || Limits {
        ratio_max: 20,
        ratio_floor_bytes: 1 << 20,
        unpacked_bytes_max: 6 << 20,
        ..Limits::default()
    };
    let flipped = |mut bytes: Vec<u8>| {
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        bytes
    };
    let rows: Vec<StreamRow<'_>> = vec![
        ("gzip, good", gzip(&plain), &plain, Limits::default(), ""),
        ("zstd, good", zstd(&plain), &plain, Limits::default(), ""),
        (
            "gzip members",
            [gzip(&plain[..700]), gzip(&plain[700..])].concat(),
            &plain,
            Limits::default(),
            "",
        ),
        (
            "gzip checksum",
            flipped(gzip(&plain)),
            &plain,
            Limits::default(),
            "read the layer",
        ),
        (
            "gzip garbage",
            [gzip(&plain), b"garbage".to_vec()].concat(),
            &plain,
            Limits::default(),
            "read the layer",
        ),
        (
            "zstd garbage",
            [zstd(&plain), b"garbage".to_vec()].concat(),
            &plain,
            Limits::default(),
            "read the layer",
        ),
        ("gzip bomb", gzip(&zeros), &zeros, tight(), "20-fold"),
        ("zstd bomb", zstd(&zeros), &zeros, tight(), "20-fold"),
        (
            "plain bomb",
            zeros.clone(),
            &zeros,
            tight(),
            "more than 6291456 bytes",
        ),
        (
            "xz",
            b"\xfd7zXZ\0rest".to_vec(),
            &plain,
            Limits::default(),
            "compressed with xz",
        ),
        (
            "bzip2",
            b"BZh91AY&SY".to_vec(),
            &plain,
            Limits::default(),
            "compressed with bzip2",
        ),
        (
            "another tar",
            gzip(&zeros),
            &plain,
            Limits::default(),
            "diff id",
        ),
        (
            "data after the end",
            gzip(&[&plain[..], b"more"].concat()),
            &plain,
            Limits::default(),
            "diff id",
        ),
        ("empty", Vec::new(), &plain, Limits::default(), "diff id"),
    ];
    for (name, stored, plain, limits, want) in rows {
        match stored_outcome(&stored, plain, limits).await {
            Ok(()) => assert!(want.is_empty(), "{name} was accepted"),
            Err(error) => assert!(!want.is_empty() && error.contains(want), "{name}: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_cut_off_at_any_byte_is_refused() {
    let plain = archive(&[
        pax(&[("mtime", b"1.5")]),
        Raw::file(b"f", b"hello"),
        dir(b"d"),
    ]);
    for stored in [gzip(&plain), zstd::encode_all(&plain[..], 3).unwrap()] {
        for len in 0..stored.len() {
            let result = stored_outcome(&stored[..len], &plain, Limits::default()).await;
            assert!(
                result.is_err(),
                "{len} of {} bytes were accepted",
                stored.len()
            );
        }
    }
    // Plain tars of some KiB: every length would take minutes to store, so the
    // tar reader's own test does every byte, this one every edge.
    for len in (0..plain.len()).filter(|len| [0, 1, 511].contains(&(len % 512))) {
        let result = stored_outcome(&plain[..len], &plain, Limits::default()).await;
        assert!(result.is_err(), "{len} plain bytes were accepted");
    }
}
