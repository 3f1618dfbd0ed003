//! What a run wants, read from its first frame.

use std::time::Duration;

use lamina_discovery::Random;
use lamina_discovery::image_key::NamedImage;
use lamina_proto::afsletpb::execute_request::Payload;
use lamina_proto::afsletpb::{ExecuteRequest, StartRequest};
use prost::Message as _;
use tonic::Status;

/// Most bytes of the first frame; a command's arguments and environment may have 2 MiB by the kernel, and nobody's do.
pub(crate) const START_BYTES_MAX: usize = 1 << 20;
/// Looks for a place when nobody says how many.
const RETRIES: u32 = 20;
/// At most.
const RETRIES_MAX: u32 = 1_000;
/// The step between two looks when nobody says.
const BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Looks for a node that nobody is known to be: by then names were looked up again, so that one that has just come is known.
const STRANGER_RETRIES: u32 = 10;
/// Part of a pause that chance decides.
const JITTER: f64 = 0.25;

/// What a run wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Processors.
    pub(crate) cpu: u64,
    /// MiB.
    pub(crate) memory: u64,
    /// The only node that will do.
    pub(crate) node: Option<String>,
    /// By which warm nodes are known.
    pub(crate) image: Option<WantedImage>,
    /// How long it looks for a place.
    pub(crate) patience: Patience,
    /// For logs.
    pub(crate) request_id: String,
}

/// An image as nodes name it in their status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WantedImage {
    /// For this platform.
    Key(String),
    /// For whatever a node is: the key up to the architecture.
    AnyArch(String),
}

impl WantedImage {
    fn of(start: &StartRequest) -> Option<Self> {
        if start.flist.is_some() {
            return None;
        }
        let platform = [
            start.platform_os.as_str(),
            start.platform_arch.as_str(),
            start.platform_variant.as_str(),
        ];
        // What names no image is refused by whoever is asked to run it.
        let key = NamedImage::new(&start.image, &start.tag, platform).ok()?;
        let key = key.key().to_string();
        Some(match start.platform_arch.is_empty() {
            false => Self::Key(key),
            true => Self::AnyArch(without_arch(&key).to_owned()),
        })
    }
}

/// `image|tag|os` of a key.
pub(crate) fn without_arch(key: &str) -> &str {
    let third = key.match_indices('|').nth(2);
    third.map_or(key, |(at, _)| &key[..at])
}

/// What there is to wait for, after a look in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hope {
    /// Room, or an afslet that comes back.
    Room,
    /// The wanted node, which no afslet says to be.
    Node,
    /// That afslets which tried can start it after all: an image's registry or store may come back.
    Repair,
}

/// How often a place is looked for, and how long is waited between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    pub(crate) retries: u32,
    backoff: Duration,
}

impl Patience {
    fn of(start: &StartRequest) -> Self {
        let retries = match start.proxy_dispatch_max_retries {
            0 => RETRIES,
            given => u32::try_from(given.max(0))
                .unwrap_or(RETRIES_MAX)
                .min(RETRIES_MAX),
        };
        let backoff = match start.proxy_dispatch_backoff_ms {
            given if given <= 0 => BACKOFF,
            given => Duration::from_millis(given.unsigned_abs()),
        };
        Self { retries, backoff }
    }

    /// Whether so many looks, which took so long, are enough. Where afslets try and fail, the time of that counts as if it
    /// were waited, and another look must end before that is over, so that who asks hears the reason before losing patience.
    pub(crate) fn is_over(&self, hope: Hope, looks: u32, took: Duration) -> bool {
        match hope {
            Hope::Room => looks > self.retries,
            Hope::Node => looks > self.retries.min(STRANGER_RETRIES),
            Hope::Repair => looks > self.retries || took + took / looks.max(1) >= self.pauses(),
        }
    }

    /// All pauses together.
    fn pauses(&self) -> Duration {
        let each = (1..=self.retries).map(|attempt| self.step(attempt));
        each.fold(Duration::ZERO, Duration::saturating_add)
    }

    fn step(&self, attempt: u32) -> Duration {
        self.backoff.saturating_mul(attempt).min(PAUSE_MAX)
    }

    /// Before the `attempt`th look again, counted from 1: grows by the same step each time, a little earlier or later.
    pub(crate) fn pause(&self, attempt: u32, random: &mut Random) -> Duration {
        random.around(self.step(attempt), JITTER)
    }
}

impl Ask {
    /// Reads the first frame.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, naming the field.
    pub(crate) fn parse(frame: &[u8]) -> Result<Self, Status> {
        if frame.len() > START_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "start: it has {} bytes; at most {START_BYTES_MAX} are taken",
                frame.len()
            )));
        }
        let frame = ExecuteRequest::decode(frame)
            .map_err(|error| Status::invalid_argument(format!("the first frame: {error}")))?;
        match frame.payload {
            Some(Payload::Start(start)) => Self::of(&start),
            Some(Payload::FileBegin(_)) => Err(out_of_order("file_begin")),
            Some(Payload::FileChunk(_)) => Err(out_of_order("file_chunk")),
            Some(Payload::FileEnd(_)) => Err(out_of_order("file_end")),
            None => Err(out_of_order("nothing that is known")),
        }
    }

    fn of(start: &StartRequest) -> Result<Self, Status> {
        Ok(Self {
            cpu: at_least_one("cpu_cores", start.cpu_cores)?,
            memory: at_least_one("memory_mb", start.memory_mb)?,
            node: (!start.node_id.is_empty()).then(|| start.node_id.clone()),
            image: WantedImage::of(start),
            patience: Patience::of(start),
            request_id: start.request_id.chars().take(128).collect(),
        })
    }
}

fn out_of_order(found: &str) -> Status {
    Status::invalid_argument(format!(
        "the first frame is {found}; a run begins with `start`"
    ))
}

fn at_least_one(field: &str, given: i64) -> Result<u64, Status> {
    match u64::try_from(given) {
        Ok(given @ 1..) => Ok(given),
        _ => Err(Status::invalid_argument(format!(
            "{field}: it is {given}; give 1 or more"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lamina_proto::afsletpb::{FileChunk, FileEntryBegin, FileEntryEnd};

    fn start() -> StartRequest {
        StartRequest {
            image: "debian".into(),
            cpu_cores: 2,
            memory_mb: 512,
            ..StartRequest::default()
        }
    }

    fn parse(payload: Option<Payload>) -> Result<Ask, Status> {
        Ask::parse(&ExecuteRequest { payload }.encode_to_vec())
    }

    fn refused(payload: Option<Payload>) -> String {
        let status = parse(payload).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn a_run_begins_with_a_start_that_says_what_it_needs() {
        let ask = parse(Some(Payload::Start(start()))).unwrap();
        assert_eq!((ask.cpu, ask.memory, ask.node), (2, 512, None));
        let key = "docker.io/library/debian|latest|linux".to_owned();
        assert_eq!(ask.image, Some(WantedImage::AnyArch(key)));
        let chunk = Payload::FileChunk(FileChunk::default());
        assert!(refused(Some(chunk)).contains("file_chunk"));
        let begin = Payload::FileBegin(FileEntryBegin::default());
        assert!(refused(Some(begin)).contains("file_begin"));
        let end = Payload::FileEnd(FileEntryEnd {});
        assert!(refused(Some(end)).contains("file_end"));
        assert!(refused(None).contains("`start`"));
        assert!(Ask::parse(&[0xff; 7]).is_err());
    }

    #[test]
    fn a_share_of_nothing_and_a_giant_start_are_refused_by_name() {
        for (cpu_cores, memory_mb, field) in [
            (0, 1, "cpu_cores"),
            (-1, 1, "cpu_cores"),
            (1, 0, "memory_mb"),
        ] {
            let start = StartRequest {
                cpu_cores,
                memory_mb,
                ..start()
            };
            assert!(refused(Some(Payload::Start(start))).starts_with(field));
        }
        let env = vec!["A=".to_owned() + &"x".repeat(START_BYTES_MAX)];
        let giant = StartRequest { env, ..start() };
        assert!(refused(Some(Payload::Start(giant))).starts_with("start: it has"));
    }

    #[test]
    fn an_image_for_a_platform_is_known_by_its_whole_key() {
        let start = StartRequest {
            platform_arch: "arm64".into(),
            ..start()
        };
        let key = "docker.io/library/debian|latest|linux|arm64|".to_owned();
        assert_eq!(WantedImage::of(&start), Some(WantedImage::Key(key)));
        let bad = StartRequest {
            image: "A B".into(),
            ..start
        };
        assert_eq!(WantedImage::of(&bad), None);
        assert_eq!(without_arch("a|b|c|d|e"), "a|b|c");
        assert_eq!(without_arch("a"), "a");
    }

    #[test]
    fn patience_is_linear_bounded_and_never_negative() {
        let patience = |retries, backoff| {
            Patience::of(&StartRequest {
                proxy_dispatch_max_retries: retries,
                proxy_dispatch_backoff_ms: backoff,
                ..start()
            })
        };
        let usual = patience(0, 0);
        assert_eq!((usual.retries, usual.backoff), (RETRIES, BACKOFF));
        assert_eq!(patience(-1, -1).retries, 0);
        assert_eq!(patience(i64::MAX, i64::MAX).retries, RETRIES_MAX);
        let mut random = Random::from_seed(1);
        let given = patience(3, 40);
        assert_eq!(given.retries, 3);
        for attempt in 1..=100 {
            let step = Duration::from_millis(40) * attempt;
            let pause = given.pause(attempt, &mut random);
            assert!(pause >= step.mul_f64(0.75) && pause <= step.mul_f64(1.25));
        }
        let longest = patience(1, i64::MAX).pause(u32::MAX, &mut random);
        assert!(longest <= PAUSE_MAX.mul_f64(1.25));
    }

    #[test]
    fn failing_slowly_and_looking_for_nobody_end_sooner() {
        let patience = Patience {
            retries: 20,
            backoff: BACKOFF,
        };
        let second = Duration::from_secs(1);
        for (hope, looks, took, is_over) in [
            (Hope::Room, 20, second * 3600, false),
            (Hope::Room, 21, second, true),
            (Hope::Node, 10, second, false),
            (Hope::Node, 11, second, true),
            (Hope::Repair, 1, second * 10, false),
            (Hope::Repair, 1, second * 11, true),
            (Hope::Repair, 4, second * 16, false),
            (Hope::Repair, 4, second * 17, true),
            (Hope::Repair, 21, second, true),
        ] {
            let found = patience.is_over(hope, looks, took);
            assert_eq!(found, is_over, "{hope:?} {looks} {took:?}");
        }
        let none = Patience {
            retries: 0,
            ..patience
        };
        assert!(none.is_over(Hope::Node, 1, second));
    }
}
