//! Directories as frames.

use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn read(sources: Vec<Source>) -> (Vec<Payload>, Option<String>) {
    let (uploading, mut sent) = begin(StartRequest::default(), sources).unwrap();
    let mut frames = Vec::new();
    let mut failure = uploading.0;
    loop {
        match sent.blocking_recv() {
            Some(frame) => frames.push(frame.payload.unwrap()),
            None => return (frames, None),
        }
        if let Ok((error, _)) = failure.try_recv() {
            return (frames, Some(format!("{error:#}")));
        }
    }
}

/// One line for each frame.
fn shown(frames: &[Payload]) -> Vec<String> {
    let show = |frame: &Payload| match frame {
        Payload::Start(_) => "start".to_owned(),
        Payload::FileBegin(begin) => format!(
            "{} {:o} {} {}",
            begin
                .r#type()
                .as_str_name()
                .trim_start_matches("FILE_TYPE_"),
            begin.mode,
            begin.path,
            begin.symlink_target
        ),
        Payload::FileChunk(chunk) => format!("{} bytes", chunk.data.len()),
        Payload::FileEnd(_) => "end".to_owned(),
    };
    frames.iter().map(show).collect()
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_directory_is_its_files_links_and_modes_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("src/b/deep")).unwrap();
    std::fs::write(at("src/a.txt"), vec![1; PIECE + 10]).unwrap();
    std::fs::write(at("src/b/run"), b"#!").unwrap();
    std::fs::write(at("src/empty"), b"").unwrap();
    std::fs::write(at("secret"), b"secret").unwrap();
    symlink("/etc/passwd", at("src/b/link")).unwrap();
    symlink("../secret", at("src/c")).unwrap();
    symlink("..", at("src/d")).unwrap();
    rustix::fs::mknodat(CWD, at("src/pipe"), Kind::Fifo, Mode::RWXU, 0).unwrap();
    for (name, bits) in [
        ("src", 0o750),
        ("src/b", 0o755),
        ("src/b/deep", 0o1777),
        ("src/b/run", 0o4755),
        ("src/a.txt", 0o644),
        ("src/empty", 0),
    ] {
        mode(&at(name), bits);
    }
    let typed = format!("{}:/work/", at("src").display());
    let (frames, failed) = read(vec![directory(&typed).unwrap()]);
    assert_eq!(failed, None);
    assert_eq!(
        shown(&frames),
        [
            "start",
            "DIR 750 /work ",
            "end",
            "FILE 644 /work/a.txt ",
            &format!("{PIECE} bytes"),
            "10 bytes",
            "end",
            "DIR 755 /work/b ",
            "end",
            "DIR 1777 /work/b/deep ",
            "end",
            "SYMLINK 777 /work/b/link /etc/passwd",
            "end",
            "FILE 4755 /work/b/run ",
            "2 bytes",
            "end",
            "SYMLINK 777 /work/c ../secret",
            "end",
            "SYMLINK 777 /work/d ..",
            "end",
            "FILE 100000 /work/empty ",
            "end",
        ]
    );
}

#[test]
fn where_it_is_put_may_be_said_or_is_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("job:1")).unwrap();
    std::fs::write(dir.path().join("f"), b"x").unwrap();
    let at = dir.path().display();
    for (typed, inside) in [
        (format!("{at}/job:1"), "/job:1"),
        (format!("{at}/job:1:/in"), "/in"),
        (format!("{at}/job:1/.:/"), "/"),
    ] {
        assert_eq!(directory(&typed).unwrap().inside, inside, "{typed}");
    }
    assert_eq!(file(&format!("{at}/f:/etc/f")).unwrap().inside, "/etc/f");
    for bad in [
        format!("{at}/f"),
        format!("{at}/none"),
        format!("{at}/job:1:/a/../b"),
    ] {
        assert!(directory(&bad).is_err(), "{bad}");
    }
    for bad in [
        format!("{at}/f"),
        format!("{at}/job:1:/x"),
        format!("{at}/f:/../x"),
    ] {
        assert!(file(&bad).is_err(), "{bad}");
    }
    let root = Source {
        local: dir.path().join("job:1"),
        inside: "/".into(),
        is_directory: true,
    };
    // The root's own mode is the image's.
    assert_eq!(shown(&read(vec![root]).0), ["start"]);
}

#[test]
fn what_cannot_be_read_or_named_fails_and_does_not_end_the_frames() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"bad\xff");
    std::fs::write(dir.path().join(name), b"x").unwrap();
    let (uploading, mut sent) = begin(
        StartRequest::default(),
        vec![directory(&format!("{}:/in", dir.path().display())).unwrap()],
    )
    .unwrap();
    let (error, frames) = uploading.0.blocking_recv().unwrap();
    let said = format!("{error:#}");
    assert!(said.contains(r#"not UTF-8: "bad\xff""#), "{said}");
    let count = std::iter::from_fn(|| sent.try_recv().ok()).count();
    assert_eq!(count, 3);
    assert!(matches!(
        sent.try_recv(),
        Err(mpsc::error::TryRecvError::Empty)
    ));
    drop(frames);
    let gone = Source {
        local: "/nowhere/at/all".into(),
        inside: "/x".into(),
        is_directory: false,
    };
    let (uploading, _sent) = begin(StartRequest::default(), vec![gone]).unwrap();
    let (error, _frames) = uploading.0.blocking_recv().unwrap();
    assert!(
        format!("{error:#}").contains("/nowhere/at/all"),
        "{error:#}"
    );
}

/// Once, only as much was sent as there is by its size: nothing.
#[test]
fn a_file_that_says_it_is_empty_is_sent_as_far_as_it_can_be_read() {
    let of = |local: &str| Source {
        local: local.into(),
        inside: "/x".into(),
        is_directory: false,
    };
    let (frames, failed) = read(vec![of("/proc/version")]);
    let sent: Vec<u8> = frames
        .into_iter()
        .filter_map(|frame| match frame {
            Payload::FileChunk(chunk) => Some(chunk.data),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(failed, None);
    assert_eq!(sent, std::fs::read("/proc/version").unwrap());
    // It has a page for every page of this process's memory.
    let endless = vec![of("/proc/self/pagemap")];
    let (uploading, mut sent) = begin(StartRequest::default(), endless).unwrap();
    let taking = std::thread::spawn(move || while sent.blocking_recv().is_some() {});
    let (error, frames) = uploading.0.blocking_recv().unwrap();
    let said = format!("{error:#}");
    assert!(said.contains("16.0 MiB and more"), "{said}");
    drop(frames);
    taking.join().unwrap();
}
