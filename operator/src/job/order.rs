//! What the proxy is asked for a run: the same for all runs of a job, but for index and attempt. No I/O.

use std::sync::Arc;
use std::time::Duration;

use lamina_crds::JobSpec;
use lamina_proto::afsletpb::{
    DiffMode, ExecuteRequest, FileChunk, FileEntryBegin, FileEntryEnd, FileType, Keep,
    StartRequest, execute_request::Payload,
};
use lamina_proto::lamina::v1::FlistSource;

use crate::fault::Fault;
use crate::quantity;

/// Bytes of a message that carries a file.
const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of all files of a job: they are held while it is sent.
const FILES_BYTES_MAX: usize = 8 << 20;
/// Where nothing is said.
const MEMORY_MB: i64 = 512;
/// How often a proxy looks for room, and the milliseconds between, times the look's number: within a minute.
const DISPATCH_RETRIES: i64 = 20;
const DISPATCH_BACKOFF_MS: i64 = 250;

/// What was read of other objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inputs {
    pub(crate) docker_config: Vec<u8>,
    pub(crate) flist: Option<FlistSource>,
    pub(crate) keep: Option<Keep>,
    pub(crate) files: Vec<File>,
}

/// A file to be put into the root file system.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) bytes: Vec<u8>,
}

/// A job as the proxy is asked for it.
#[derive(Debug)]
pub(crate) struct Order {
    start: StartRequest,
    files: Vec<File>,
    timeout: Duration,
}

impl Order {
    /// What the spec says.
    pub(crate) fn new(spec: &JobSpec, inputs: Inputs) -> Result<Self, Fault> {
        fits(&inputs.files)?;
        let timeout = timeout(&spec.timeout)?;
        let mut env: Vec<String> = spec
            .env
            .iter()
            .map(|one| format!("{}={}", one.name, one.value))
            .collect();
        env.sort();
        let (cpu_cores, memory_mb) = amounts(spec)?;
        let start = StartRequest {
            image: spec.source.image.clone().unwrap_or_default(),
            cpu_cores,
            memory_mb,
            timeout_ms: i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX),
            proxy_dispatch_max_retries: DISPATCH_RETRIES,
            proxy_dispatch_backoff_ms: DISPATCH_BACKOFF_MS,
            env,
            docker_config_json: inputs.docker_config,
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            diff: DiffMode::None.into(),
            flist: inputs.flist,
            keep: inputs.keep,
            // Its own command does not follow another entrypoint.
            entrypoint: spec.command.clone(),
            ..StartRequest::default()
        };
        Ok(Self {
            start,
            files: inputs.files,
            timeout,
        })
    }

    /// How long its command may run.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether what a run that succeeds changed is kept.
    pub(crate) fn keeps(&self) -> bool {
        self.start.keep.is_some()
    }

    /// The messages of one run. `request`: its name in logs.
    pub(crate) fn messages(
        self: Arc<Self>,
        index: i32,
        attempt: i32,
        request: String,
    ) -> impl Iterator<Item = ExecuteRequest> + Send + 'static {
        let mut start = self.start.clone();
        start.env.push(format!("JOB_COMPLETION_INDEX={index}"));
        start.env.push(format!("LAMINA_JOB_ATTEMPT={attempt}"));
        start.request_id = request;
        let count = self.files.len();
        let files = (0..count).flat_map(move |at| Arc::clone(&self).file(at));
        std::iter::once(Payload::Start(start))
            .chain(files)
            .map(|payload| ExecuteRequest {
                payload: Some(payload),
            })
    }

    /// The messages of one file, made one after the other.
    fn file(self: Arc<Self>, at: usize) -> impl Iterator<Item = Payload> + Send + 'static {
        let file = &self.files[at];
        let begin = FileEntryBegin {
            path: file.path.clone(),
            r#type: FileType::File.into(),
            mode: file.mode,
            ..FileEntryBegin::default()
        };
        let pieces = file.bytes.len().div_ceil(CHUNK_BYTES);
        let chunks = (0..pieces).map(move |piece| {
            let bytes = &self.files[at].bytes;
            let end = bytes.len().min((piece + 1) * CHUNK_BYTES);
            Payload::FileChunk(FileChunk {
                data: bytes[piece * CHUNK_BYTES..end].to_vec(),
            })
        });
        std::iter::once(Payload::FileBegin(begin))
            .chain(chunks)
            .chain(std::iter::once(Payload::FileEnd(FileEntryEnd {})))
    }
}

/// Refuses more files than are held.
pub(super) fn fits(files: &[File]) -> Result<(), Fault> {
    let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
    match bytes > FILES_BYTES_MAX {
        false => Ok(()),
        true => Err(invalid(format!(
            "its files have more bytes than the at most {FILES_BYTES_MAX} there may be: put them into an image or a Flist"
        ))),
    }
}

/// Processors and mebibytes that each run reserves.
pub(super) fn amounts(spec: &JobSpec) -> Result<(i64, i64), Fault> {
    let cores = cores(spec.resources.cpu.as_deref())?;
    Ok((cores, memory_mb(spec.resources.memory.as_deref())?))
}

/// Name of a run in the logs of proxy and nodes.
pub(crate) fn request_id(namespace: &str, name: &str, attempt: i32) -> String {
    let mut text = format!("{namespace}.{name}");
    text.truncate(110);
    format!("{text}.{attempt}")
}

/// `90s`, `10m` or `2h`, more than nothing.
fn timeout(text: &str) -> Result<Duration, Fault> {
    let bad = || {
        invalid(format!(
            "timeout: {text} is not a length of time such as 90s or 2h"
        ))
    };
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    match number {
        0 => Err(bad()),
        number => Ok(Duration::from_secs(number.saturating_mul(unit))),
    }
}

/// Whole processors: what is begun counts.
fn cores(text: Option<&str>) -> Result<i64, Fault> {
    let Some(text) = text else { return Ok(1) };
    let millis = match text.strip_suffix('m') {
        Some(number) => number.parse().ok(),
        None => quantity::bytes(text)
            .zip(fraction(text))
            .map(|(whole, more)| whole.saturating_mul(1000) + more),
    };
    let millis: u64 =
        millis.ok_or_else(|| invalid(format!("resources.cpu: {text} is not an amount")))?;
    Ok(i64::try_from(millis.div_ceil(1000))
        .unwrap_or(i64::MAX)
        .max(1))
}

/// Thousandths behind the point of `1.5`; none behind a unit.
fn fraction(text: &str) -> Option<u64> {
    let Some((_, digits)) = text.split_once('.') else {
        return Some(0);
    };
    let digits: String = digits.chars().chain("000".chars()).take(3).collect();
    digits.parse().ok()
}

/// Whole mebibytes: what is begun counts.
fn memory_mb(text: Option<&str>) -> Result<i64, Fault> {
    let Some(text) = text else {
        return Ok(MEMORY_MB);
    };
    let bytes = quantity::bytes(text).ok_or_else(|| {
        invalid(format!(
            "resources.memory: {text} is not an amount of bytes"
        ))
    })?;
    Ok(i64::try_from(bytes.div_ceil(1 << 20))
        .unwrap_or(i64::MAX)
        .max(1))
}

fn invalid(message: String) -> Fault {
    Fault::new("InvalidSpec", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "reads well with json!")]
    fn spec(extra: serde_json::Value) -> JobSpec {
        let mut spec = json!({ "source": { "image": "alpine" } });
        let more = extra.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(more);
        serde_json::from_value(spec).unwrap()
    }

    fn start(spec: &JobSpec) -> Result<StartRequest, Fault> {
        Ok(Order::new(spec, Inputs::default())?.start)
    }

    #[test]
    fn amounts_are_whole_and_at_least_one() {
        for (cpu, memory, expected) in [
            ("500m", "1", (1, 1)),
            ("1500m", "512Mi", (2, 512)),
            ("1.5", "1.5Gi", (2, 1536)),
            ("2", "1G", (2, 954)),
        ] {
            let start = start(&spec(
                json!({ "resources": { "cpu": cpu, "memory": memory } }),
            ));
            let start = start.unwrap();
            assert_eq!(
                (start.cpu_cores, start.memory_mb),
                expected,
                "{cpu} {memory}"
            );
        }
        let none = start(&spec(json!({}))).unwrap();
        assert_eq!((none.cpu_cores, none.memory_mb), (1, 512));
        assert_eq!(none.timeout_ms, 3_600_000);
        for bad in [
            json!({ "timeout": "0s" }),
            json!({ "timeout": "soon" }),
            json!({ "resources": { "cpu": "many" } }),
            json!({ "resources": { "memory": "-1" } }),
        ] {
            assert_eq!(start(&spec(bad)).unwrap_err().reason, "InvalidSpec");
        }
    }

    #[test]
    fn a_run_is_sent_with_its_files_in_pieces_and_its_index() {
        let spec = spec(json!({
            "command": ["sh", "-c", "true"], "workingDir": "/srv",
            "env": [{ "name": "B", "value": "2" }, { "name": "A", "value": "1" }],
        }));
        let file = |path: &str, size: usize| File {
            path: path.into(),
            mode: 0o600,
            bytes: vec![7; size],
        };
        let inputs = Inputs {
            files: vec![file("/a", 0), file("/b", CHUNK_BYTES + 1)],
            ..Inputs::default()
        };
        let order = Arc::new(Order::new(&spec, inputs).unwrap());
        let all: Vec<Payload> = order
            .messages(3, 9, "r".into())
            .map(|message| message.payload.unwrap())
            .collect();
        let Payload::Start(start) = &all[0] else {
            panic!("first the start")
        };
        assert_eq!(start.entrypoint, ["sh", "-c", "true"]);
        assert_eq!(
            (start.working_dir.as_str(), start.request_id.as_str()),
            ("/srv", "r")
        );
        assert_eq!(
            start.env,
            [
                "A=1",
                "B=2",
                "JOB_COMPLETION_INDEX=3",
                "LAMINA_JOB_ATTEMPT=9"
            ]
        );
        let shape: Vec<usize> = all[1..]
            .iter()
            .map(|payload| match payload {
                Payload::FileBegin(_) => 0,
                Payload::FileChunk(chunk) => chunk.data.len(),
                _ => 1,
            })
            .collect();
        assert_eq!(shape, [0, 1, 0, CHUNK_BYTES, 1, 1]);
    }

    #[test]
    fn more_files_than_a_run_may_have_are_refused() {
        let inputs = Inputs {
            files: vec![File {
                path: "/a".into(),
                mode: 0,
                bytes: vec![0; FILES_BYTES_MAX + 1],
            }],
            ..Inputs::default()
        };
        let fault = Order::new(&spec(json!({})), inputs).unwrap_err();
        assert!(fault.message.contains("at most 8388608"), "{fault}");
    }
}
