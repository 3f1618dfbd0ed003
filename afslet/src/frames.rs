//! The order of a client's frames after the first, and what they may carry. Pure.
//!
//! ```text
//!  (file_begin (file_chunk)* file_end)*  end of the stream
//! ```
//! A frame out of this order is refused with what it was and which entry it is about.

use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{ExecuteRequest, FileEntryBegin, FileType};
use lamina_runtime::ids::IDS_PER_SANDBOX;

use crate::error::RunError;

/// Longest path, and longest target of a link (`PATH_MAX`).
const PATH_MAX: usize = 4095;
/// Longest name in one (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// Most bytes of one chunk.
pub(crate) const CHUNK_MAX: usize = 4 << 20;
/// Permission bits, with those that are above rwx.
const MODE_BITS: u32 = 0o7777;
/// What a mode may have beside them: the type, as stat gives it.
const MODE_MAX: u32 = 0o177_777;
/// What the sandbox mounts its own on.
const ITS_OWN: [&str; 3] = ["proc", "dev", "sys"];

/// An entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Names from the root on; none for the root itself.
    pub(crate) names: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since the Unix epoch; `None`: now.
    pub(crate) mtime: Option<i64>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Symlink(String),
}

/// What is to be done for a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Begin(Entry),
    Data(Vec<u8>),
    End,
}

/// Where in the order a client is.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The entry that was begun and has not ended: its path, and whether it has data.
    open: Option<(String, bool)>,
}

impl Frames {
    /// Takes the next frame.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that says which frame and entry, and why.
    pub(crate) fn next(&mut self, request: ExecuteRequest) -> Result<Step, RunError> {
        match (request.payload, &self.open) {
            (None, _) => Err(RunError::invalid("a frame is empty")),
            (Some(Payload::Start(_)), _) => Err(RunError::invalid(
                "start: it comes once, as the first frame",
            )),
            (Some(Payload::FileBegin(begin)), Some((path, _))) => Err(RunError::invalid(format!(
                "file_begin of {:?}: {path:?} has not ended, a file_end must come before",
                shown(&begin.path)
            ))),
            (Some(Payload::FileBegin(begin)), None) => {
                let path = shown(&begin.path);
                let entry = Entry::parse(begin)
                    .map_err(|why| RunError::invalid(format!("file entry {path:?}: {why}")))?;
                self.open = Some((path, entry.kind == Kind::File));
                Ok(Step::Begin(entry))
            }
            (Some(Payload::FileChunk(_)), None) => Err(RunError::invalid(
                "file_chunk: no file was begun, a file_begin must come before",
            )),
            (Some(Payload::FileChunk(_)), Some((path, false))) => Err(RunError::invalid(format!(
                "file_chunk of {path:?}: only files have data"
            ))),
            (Some(Payload::FileChunk(chunk)), Some((path, true))) => match chunk.data.len() {
                0..=CHUNK_MAX => Ok(Step::Data(chunk.data)),
                size => Err(RunError::invalid(format!(
                    "file_chunk of {path:?}: {size} bytes are more than {CHUNK_MAX}; send several"
                ))),
            },
            (Some(Payload::FileEnd(_)), None) => Err(RunError::invalid(
                "file_end: nothing was begun, a file_begin must come before",
            )),
            (Some(Payload::FileEnd(_)), Some(_)) => {
                self.open = None;
                Ok(Step::End)
            }
        }
    }

    /// The client has sent everything.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` when an entry has not ended.
    pub(crate) fn finish(&self) -> Result<(), RunError> {
        match &self.open {
            None => Ok(()),
            Some((path, _)) => Err(RunError::invalid(format!(
                "file entry {path:?}: the stream ended before its file_end"
            ))),
        }
    }

    /// The entry that is under way, for what goes wrong with it.
    pub(crate) fn entry(&self) -> Option<&str> {
        self.open.as_ref().map(|(path, _)| path.as_str())
    }
}

impl Entry {
    fn parse(begin: FileEntryBegin) -> Result<Self, String> {
        let names = names(&begin.path)?;
        let kind = match FileType::try_from(begin.r#type) {
            Ok(FileType::Dir) => Kind::Directory,
            Ok(FileType::File) => Kind::File,
            Ok(FileType::Symlink) => Kind::Symlink(target(begin.symlink_target)?),
            Err(_) => return Err(format!("type {} is not known", begin.r#type)),
        };
        if names.is_empty() && kind != Kind::Directory {
            return Err("the root is a directory".to_owned());
        }
        if begin.mode > MODE_MAX {
            return Err(format!("mode {:o} has bits that no mode has", begin.mode));
        }
        // A mode of nothing is said with the file type's bits beside it.
        let mode = match (begin.mode, &kind) {
            (0, Kind::Directory) => 0o755,
            (0, _) => 0o644,
            (mode, _) => mode & MODE_BITS,
        };
        for (field, id) in [("uid", begin.uid), ("gid", begin.gid)] {
            if id >= IDS_PER_SANDBOX {
                return Err(format!("{field} {id} is not below {IDS_PER_SANDBOX}"));
            }
        }
        Ok(Self {
            names,
            kind,
            mode,
            uid: begin.uid,
            gid: begin.gid,
            mtime: Some(begin.mtime_unix).filter(|time| *time != 0),
        })
    }
}

/// The names of a path.
fn names(path: &str) -> Result<Vec<String>, String> {
    if path.is_empty() {
        return Err("the path is empty".to_owned());
    }
    if path.len() > PATH_MAX {
        return Err(format!("the path has more than {PATH_MAX} bytes"));
    }
    if path.contains('\0') {
        return Err("the path has a NUL in it".to_owned());
    }
    let names = path.split('/').filter(|name| !matches!(*name, "" | "."));
    let names: Vec<String> = names.map(str::to_owned).collect();
    if names.iter().any(|name| name == "..") {
        return Err("the path has `..` in it".to_owned());
    }
    if names.iter().any(|name| name.len() > NAME_MAX) {
        return Err(format!("a name has more than {NAME_MAX} bytes"));
    }
    if names
        .first()
        .is_some_and(|name| ITS_OWN.contains(&name.as_str()))
    {
        return Err("/proc, /dev and /sys are the sandbox's own".to_owned());
    }
    Ok(names)
}

fn target(text: String) -> Result<String, String> {
    match text.len() {
        0 => Err("symlink_target is empty".to_owned()),
        1..=PATH_MAX if text.contains('\0') => Err("symlink_target has a NUL in it".to_owned()),
        1..=PATH_MAX => Ok(text),
        _ => Err(format!("symlink_target has more than {PATH_MAX} bytes")),
    }
}

/// Of a caller's text, what goes into an answer.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_proto::afsletpb::{FileChunk, FileEntryEnd, StartRequest};

    fn frame(payload: Payload) -> ExecuteRequest {
        ExecuteRequest {
            payload: Some(payload),
        }
    }

    fn begin(path: &str, kind: FileType) -> FileEntryBegin {
        FileEntryBegin {
            path: path.into(),
            r#type: kind.into(),
            ..FileEntryBegin::default()
        }
    }

    fn file(path: &str) -> ExecuteRequest {
        frame(Payload::FileBegin(begin(path, FileType::File)))
    }

    fn chunk(size: usize) -> ExecuteRequest {
        frame(Payload::FileChunk(FileChunk {
            data: vec![0; size],
        }))
    }

    fn end() -> ExecuteRequest {
        frame(Payload::FileEnd(FileEntryEnd {}))
    }

    fn refused(frames: Vec<ExecuteRequest>) -> String {
        let mut order = Frames::default();
        let mut steps = frames.into_iter().map(|frame| order.next(frame));
        let error = match steps.find_map(Result::err) {
            Some(error) => error,
            None => order.finish().unwrap_err(),
        };
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.to_string().len() < 1000);
        error.to_string()
    }

    #[test]
    fn frames_in_order_are_taken() {
        let mut order = Frames::default();
        for frame in [file("a/b"), chunk(3), chunk(0), end(), file("c"), end()] {
            order.next(frame).unwrap();
        }
        order.finish().unwrap();
        assert_eq!(order.entry(), None);
    }

    #[test]
    fn frames_out_of_order_are_refused_by_name() {
        let start = || frame(Payload::Start(StartRequest::default()));
        let directory = || frame(Payload::FileBegin(begin("d", FileType::Dir)));
        let cases = [
            (vec![start()], "start: it comes once"),
            (vec![chunk(1)], "file_chunk: no file was begun"),
            (vec![end()], "file_end: nothing was begun"),
            (
                vec![file("a"), file("b")],
                "file_begin of \"b\": \"a\" has not ended",
            ),
            (
                vec![directory(), chunk(1)],
                "file_chunk of \"d\": only files have data",
            ),
            (
                vec![file("a"), chunk(1)],
                "file entry \"a\": the stream ended",
            ),
            (
                vec![file("a"), chunk(CHUNK_MAX + 1)],
                "file_chunk of \"a\": 4194305 bytes",
            ),
            (vec![ExecuteRequest { payload: None }], "a frame is empty"),
        ];
        for (frames, expected) in cases {
            let said = refused(frames);
            assert!(said.starts_with(expected), "{said}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let long = "x".repeat(300);
        let longer = "x/".repeat(3000);
        for (path, expected) in [
            ("", "the path is empty"),
            ("../etc/passwd", "the path has `..`"),
            ("a/../../b", "the path has `..`"),
            ("/..", "the path has `..`"),
            ("a\0b", "the path has a NUL"),
            (&long, "a name has more"),
            (&longer, "the path has more"),
            ("/", "the root is a directory"),
            ("proc/self/mem", "/proc, /dev and /sys"),
            ("/./dev", "/proc, /dev and /sys"),
        ] {
            let said = refused(vec![file(path)]);
            assert!(said.contains(expected), "{path:?}: {said}");
        }
    }

    #[test]
    fn what_entries_say_is_checked() {
        let link = |target: &str| FileEntryBegin {
            symlink_target: target.into(),
            ..begin("l", FileType::Symlink)
        };
        let entry = |change: &dyn Fn(&mut FileEntryBegin)| {
            let mut entry = begin("f", FileType::File);
            change(&mut entry);
            entry
        };
        for (entry, expected) in [
            (link(""), "symlink_target is empty"),
            (link("a\0"), "symlink_target has a NUL"),
            (link(&"x".repeat(5000)), "symlink_target has more"),
            (entry(&|e| e.r#type = 7), "type 7 is not known"),
            (entry(&|e| e.mode = 1 << 20), "mode 4000000"),
            (entry(&|e| e.uid = 65_536), "uid 65536"),
            (entry(&|e| e.gid = u32::MAX), "gid 4294967295"),
        ] {
            let said = refused(vec![frame(Payload::FileBegin(entry))]);
            assert!(said.contains(expected), "{said}");
        }
    }

    #[test]
    fn defaults_and_types_in_modes_are_understood() {
        let parse = |mode, kind| {
            let begin = FileEntryBegin {
                mode,
                mtime_unix: 5,
                ..begin("./a//b/", kind)
            };
            Entry::parse(begin).unwrap()
        };
        assert_eq!(parse(0, FileType::Dir).mode, 0o755);
        assert_eq!(parse(0, FileType::File).mode, 0o644);
        assert_eq!(parse(0o040_000, FileType::Dir).mode, 0);
        assert_eq!(parse(0o100_000, FileType::File).mode, 0);
        let executable = parse(0o100_755, FileType::File);
        assert_eq!((executable.mode, executable.mtime), (0o755, Some(5)));
        assert_eq!(executable.names, ["a", "b"]);
    }
}
