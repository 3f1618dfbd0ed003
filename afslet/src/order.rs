//! The first frame, checked: what is to run, on what, within which bounds.
//!
//! Parsed once: after this nothing of a caller's `start` can be wrong but what only the image can tell.

use std::time::Duration;

use lamina_discovery::image_key::NamedImage;
use lamina_proto::afsletpb::{DiffMode, Keep, Network, StartRequest};
use lamina_proto::lamina::v1::source::From as Origin;
use lamina_proto::lamina::v1::{FlistSource, ImageSource, PullPolicy, Source};
use lamina_runtime::Capability;
use lamina_runtime::image::Wanted;
use tonic::Code;

use crate::error::RunError;
use crate::limits::Limits;

/// Longest argument or variable: the kernel's (`MAX_ARG_STRLEN`), with its end.
const WORD_MAX: usize = (128 << 10) - 1;
/// Most bytes of all of them; the kernel gives a quarter of the stack's 8 MiB.
const WORDS_MAX: usize = 2 << 20;
/// Most of them, each of which costs a pointer there.
const WORDS_COUNT_MAX: usize = 64 << 10;
/// Longest path (`PATH_MAX`).
const PATH_MAX: usize = 4095;
/// Most stores that one run's changes are kept in.
const STORES_MAX: usize = 64;
/// Longest user and group.
const USER_MAX: usize = 256;
/// Longest id of a request.
const REQUEST_ID_MAX: usize = 128;
/// Largest docker configuration; one has a few hundred bytes per registry.
const CREDENTIALS_MAX: usize = 256 << 10;
/// Least memory that holds a process and its page tables, mebibytes: less is reserved as asked, and used up to this.
pub(crate) const MEMORY_MB_MIN: u64 = 4;

/// What is to run.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// For logs.
    pub(crate) request_id: String,
    /// What it runs on.
    pub(crate) image: Image,
    /// What the caller wants instead of what the image says.
    pub(crate) wanted: Wanted,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
    /// Of root inside.
    pub(crate) capabilities: Vec<Capability>,
    pub(crate) host_network: bool,
    pub(crate) keeps_diff: bool,
    /// Where what a run that succeeds changed is kept.
    pub(crate) keep: Option<Keep>,
    pub(crate) bounds: Bounds,
}

/// What it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) cpu_cores: u64,
    pub(crate) memory_mb: u64,
    pub(crate) disk_mb: u64,
    pub(crate) pids: u64,
    pub(crate) timeout: Duration,
    pub(crate) log_bytes: u64,
}

/// What a run's root is made of.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// `image|tag|os|arch|variant`, or `flist|…`.
    pub(crate) key: String,
    pub(crate) source: Source,
    /// Ask what the tag stands for, whatever is known.
    pub(crate) anew: bool,
}

impl Order {
    /// Reads a `start`.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` that names the field, `PERMISSION_DENIED` for a network that is not given.
    pub(crate) fn parse(
        start: StartRequest,
        limits: &Limits,
        node: &str,
    ) -> Result<Self, RunError> {
        check_node(&start.node_id, node)?;
        let bounds = bounds(&start, limits)?;
        check_words(&start)?;
        Ok(Self {
            request_id: request_id(&start.request_id)?,
            working_dir: working_dir(&start.working_dir)?,
            user: user(&start.user)?,
            host_network: host_network(start.network, limits)?,
            keeps_diff: keeps_diff(start.diff)?,
            keep: start.keep.as_ref().map(keep).transpose()?,
            bounds,
            capabilities: capabilities(&start.cap_add)?,
            image: image(&start)?,
            wanted: Wanted {
                command: start.command,
                entrypoint: Some(start.entrypoint).filter(|words| !words.is_empty()),
                env: start.env,
            },
        })
    }
}

fn capabilities(asked: &[String]) -> Result<Vec<Capability>, RunError> {
    if asked.len() > Capability::ALL.len() {
        return Err(invalid("cap_add", "there are not so many"));
    }
    let mut all = Vec::new();
    for (index, name) in asked.iter().enumerate() {
        let named = Capability::parse(name);
        all.extend(named.map_err(|why| invalid(&format!("cap_add[{index}]"), &why))?);
    }
    Ok(all)
}

fn invalid(field: &str, why: &str) -> RunError {
    RunError::invalid(format!("{field}: {why}"))
}

fn check_node(wanted: &str, own: &str) -> Result<(), RunError> {
    if wanted.is_empty() || wanted == own {
        return Ok(());
    }
    let why = format!("{:?} is wanted, and this is {own:?}", shown(wanted));
    Err(invalid("node_id", &why))
}

fn bounds(start: &StartRequest, limits: &Limits) -> Result<Bounds, RunError> {
    let timeout_max = i64::try_from(limits.timeout.as_millis()).unwrap_or(i64::MAX);
    let timeout_max = timeout_max.unsigned_abs();
    let time = |ms| format!("{:?}", Duration::from_millis(ms));
    let timeout_ms = or_most("timeout_ms", start.timeout_ms, timeout_max, time)?;
    let mebibytes = |mb| format!("{mb} MiB");
    Ok(Bounds {
        cpu_cores: at_least_one("cpu_cores", start.cpu_cores)?,
        memory_mb: at_least_one("memory_mb", start.memory_mb)?,
        disk_mb: or_most("disk_mb", start.disk_mb, limits.disk_mb, mebibytes)?,
        pids: or_most("pids_max", start.pids_max, limits.pids, |pids| {
            pids.to_string()
        })?,
        timeout: Duration::from_millis(timeout_ms),
        log_bytes: limits.log_bytes,
    })
}

fn at_least_one(field: &str, value: i64) -> Result<u64, RunError> {
    match u64::try_from(value) {
        Ok(value @ 1..) => Ok(value),
        _ => Err(invalid(field, &format!("{value} is not 1 or more"))),
    }
}

/// 0 is the most.
fn or_most(
    field: &str,
    value: i64,
    most: u64,
    shown: impl Fn(u64) -> String,
) -> Result<u64, RunError> {
    match u64::try_from(value) {
        Ok(0) => Ok(most),
        Ok(value) if value <= most => Ok(value),
        Ok(value) => {
            let (value, most) = (shown(value), shown(most));
            let why = format!("{value} is more than a run may have here, which is {most}");
            Err(invalid(field, &why))
        }
        Err(_) => Err(invalid(field, &format!("{value} is less than nothing"))),
    }
}

fn check_words(start: &StartRequest) -> Result<(), RunError> {
    let lists = [
        ("command", &start.command),
        ("entrypoint", &start.entrypoint),
        ("env", &start.env),
    ];
    for (field, words) in lists {
        for (number, word) in words.iter().enumerate() {
            let at = format!("{field}[{number}]");
            if word.contains('\0') {
                return Err(invalid(&at, "it has a NUL in it"));
            }
            if word.len() > WORD_MAX {
                return Err(invalid(&at, &format!("it has more than {WORD_MAX} bytes")));
            }
            if field == "env" && word.find('=').is_none_or(|at| at == 0) {
                return Err(invalid(&at, "it is not NAME=VALUE"));
            }
        }
    }
    let all = || lists.iter().flat_map(|(_, words)| words.iter());
    let bytes: usize = all().map(|word| word.len() + 1).sum();
    if bytes > WORDS_MAX || all().count() > WORDS_COUNT_MAX {
        let why = format!(
            "with entrypoint and env more than {WORDS_COUNT_MAX} words or {WORDS_MAX} bytes"
        );
        return Err(invalid("command", &why));
    }
    // The first word of what is run, as far as it is known before the image is.
    for (field, words) in &lists[..2] {
        if words.first().is_some_and(String::is_empty) {
            return Err(invalid(&format!("{field}[0]"), "it is empty"));
        }
    }
    Ok(())
}

fn request_id(text: &str) -> Result<String, RunError> {
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match text.len() {
        0 => Ok(format!(
            "{:016x}",
            lamina_discovery::Random::new().next_u64()
        )),
        1..=REQUEST_ID_MAX if text.bytes().all(is_known) => Ok(text.to_owned()),
        _ => {
            let why = format!(
                "{:?} is not 1 to {REQUEST_ID_MAX} bytes of [A-Za-z0-9._-]",
                shown(text)
            );
            Err(invalid("request_id", &why))
        }
    }
}

fn working_dir(text: &str) -> Result<Option<String>, RunError> {
    match text {
        "" => Ok(None),
        text if !text.starts_with('/') => Err(invalid("working_dir", "it does not begin with `/`")),
        text if text.contains('\0') => Err(invalid("working_dir", "it has a NUL in it")),
        text if text.len() > PATH_MAX => {
            let why = format!("it has more than {PATH_MAX} bytes");
            Err(invalid("working_dir", &why))
        }
        text => Ok(Some(text.to_owned())),
    }
}

fn user(text: &str) -> Result<Option<String>, RunError> {
    match text.len() {
        0 => Ok(None),
        1..=USER_MAX => Ok(Some(text.to_owned())),
        _ => Err(invalid(
            "user",
            &format!("it has more than {USER_MAX} bytes"),
        )),
    }
}

fn host_network(asked: i32, limits: &Limits) -> Result<bool, RunError> {
    match Network::try_from(asked) {
        Ok(Network::Unspecified | Network::None) => Ok(false),
        Ok(Network::Host) if limits.host_network => Ok(true),
        Ok(Network::Host) => Err(RunError::new(
            Code::PermissionDenied,
            "network: this afslet gives no run its own network",
        )),
        Err(_) => Err(invalid("network", &format!("{asked} is not known"))),
    }
}

fn keeps_diff(asked: i32) -> Result<bool, RunError> {
    match DiffMode::try_from(asked) {
        Ok(DiffMode::Unspecified) => Ok(true),
        Ok(DiffMode::None) => Ok(false),
        Err(_) => Err(invalid("diff", &format!("{asked} is not known"))),
    }
}

fn keep(asked: &Keep) -> Result<Keep, RunError> {
    if asked.stores.is_empty() {
        return Err(invalid("keep.stores", "it is empty: name a store"));
    }
    let lists = [
        ("keep.stores", &asked.stores),
        ("keep.base_stores", &asked.base_stores),
    ];
    for (field, urls) in lists {
        if urls.len() > STORES_MAX || urls.iter().any(|url| url.len() > PATH_MAX) {
            let why =
                format!("more than {STORES_MAX} stores, or a URL of more than {PATH_MAX} bytes");
            return Err(invalid(field, &why));
        }
    }
    Ok(asked.clone())
}

fn image(start: &StartRequest) -> Result<Image, RunError> {
    if start.docker_config_json.len() > CREDENTIALS_MAX {
        let why = format!("it has more than {CREDENTIALS_MAX} bytes");
        return Err(invalid("docker_config_json", &why));
    }
    match &start.flist {
        Some(flist) => of_flist(flist.clone()),
        None => of_registry(start),
    }
}

fn of_flist(flist: FlistSource) -> Result<Image, RunError> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if flist.digest.len() != 64 || !flist.digest.bytes().all(is_hex) {
        return Err(invalid("flist.digest", "it is not 64 hex digits"));
    }
    Ok(Image {
        key: format!("flist|{}", flist.digest),
        source: Source {
            from: Some(Origin::Flist(flist)),
        },
        anew: false,
    })
}

fn of_registry(start: &StartRequest) -> Result<Image, RunError> {
    if start.image.is_empty() {
        return Err(invalid("image", "it is empty: name an image, or a flist"));
    }
    let platform = [
        start.platform_os.as_str(),
        &start.platform_arch,
        &start.platform_variant,
    ];
    let named = NamedImage::new(&start.image, &start.tag, platform);
    let named = named.map_err(|error| invalid("image, tag or platform", &error.to_string()))?;
    if named.platform.os != "linux" {
        let why = format!("{:?} does not run here", shown(&named.platform.os));
        return Err(invalid("platform_os", &why));
    }
    let pull_policy = match start.force_local_fetch {
        true => PullPolicy::Always,
        // As the node has it: `latest` is resolved anew, other tags when they are not known.
        false => PullPolicy::Unspecified,
    };
    Ok(Image {
        key: named.key().as_str().to_owned(),
        source: Source {
            from: Some(Origin::Image(ImageSource {
                reference: named.reference.to_string(),
                platform: named.platform.to_string(),
                pull_policy: pull_policy.into(),
                docker_config_json: start.docker_config_json.clone(),
            })),
        },
        anew: start.force_local_fetch,
    })
}

/// Of a caller's text, what goes into an answer.
fn shown(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> StartRequest {
        StartRequest {
            image: "registry.example/app".into(),
            command: vec!["true".into()],
            cpu_cores: 1,
            memory_mb: 64,
            ..StartRequest::default()
        }
    }

    fn limits() -> Limits {
        Limits {
            disk_mb: 100,
            pids: 50,
            timeout: Duration::from_secs(10),
            ..Limits::default()
        }
    }

    fn parse(start: StartRequest) -> Result<Order, RunError> {
        Order::parse(start, &limits(), "here")
    }

    #[test]
    fn what_is_not_said_is_the_most() {
        let order = parse(start()).unwrap();
        let expected = Bounds {
            cpu_cores: 1,
            memory_mb: 64,
            disk_mb: 100,
            pids: 50,
            timeout: Duration::from_secs(10),
            log_bytes: Limits::default().log_bytes,
        };
        assert_eq!(order.bounds, expected);
        assert!(order.keeps_diff && !order.host_network);
        assert_eq!(order.request_id.len(), 16);
        assert!(
            order
                .image
                .key
                .starts_with("registry.example/app|latest|linux|")
        );
        assert_eq!(order.wanted.entrypoint, None);
        assert_eq!(order.capabilities, []);
        let asked = StartRequest {
            cap_add: vec!["chown".into(), "CAP_SETUID".into()],
            ..start()
        };
        let capabilities = [Capability::Chown, Capability::Setuid];
        assert_eq!(parse(asked).unwrap().capabilities, capabilities);
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut StartRequest);
        let cases: [(&str, Change); 27] = [
            ("cap_add[1]: no capability", |s| {
                s.cap_add = vec!["CHOWN".into(), "SYS_ADMIN".into()];
            }),
            ("cap_add: there are not", |s| {
                s.cap_add = vec!["CHOWN".into(); 10];
            }),
            ("image: it is empty", |s| s.image.clear()),
            ("image, tag", |s| s.image = "UPPER//x".into()),
            ("image, tag", |s| s.tag = "not a tag".into()),
            ("platform_os", |s| s.platform_os = "plan9".into()),
            ("cpu_cores: 0", |s| s.cpu_cores = 0),
            ("cpu_cores: -1", |s| s.cpu_cores = -1),
            ("memory_mb: 0", |s| s.memory_mb = 0),
            ("memory_mb: -9223372036854775808", |s| {
                s.memory_mb = i64::MIN;
            }),
            ("timeout_ms: -1", |s| s.timeout_ms = -1),
            ("timeout_ms: 10.001s is more", |s| s.timeout_ms = 10_001),
            ("disk_mb: 101 MiB is more", |s| s.disk_mb = 101),
            ("pids_max: 51 is more", |s| s.pids_max = 51),
            ("node_id: \"there\"", |s| s.node_id = "there".into()),
            ("env[1]: it is not", |s| {
                s.env = vec!["A=".into(), "B".into()];
            }),
            ("env[0]: it is not", |s| s.env = vec!["=x".into()]),
            ("env[0]: it has a NUL", |s| s.env = vec!["A=\0".into()]),
            ("command[0]: it is empty", |s| {
                s.command = vec![String::new()];
            }),
            ("command[1]: it has a NUL", |s| {
                s.command.push("a\0b".into());
            }),
            ("command[1]: it has more", |s| {
                s.command.push("x".repeat(200_000));
            }),
            ("command: with entrypoint", |s| {
                s.command = vec!["x".into(); 70_000];
            }),
            ("entrypoint[0]: it is empty", |s| {
                s.entrypoint = vec![String::new()];
            }),
            ("working_dir: it does not", |s| s.working_dir = "tmp".into()),
            ("request_id: ", |s| s.request_id = "a/b".into()),
            ("network: 9", |s| s.network = 9),
            ("diff: 9", |s| s.diff = 9),
        ];
        for (expected, change) in cases {
            let mut start = start();
            change(&mut start);
            let refused = parse(start).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{expected}");
            let said = refused.to_string();
            assert!(said.starts_with(expected), "{expected}: {said}");
            assert!(said.len() < 500, "{said}");
        }
    }

    #[test]
    fn a_network_that_is_not_given_is_refused_as_such() {
        let mut asked = start();
        asked.network = Network::Host.into();
        let refused = parse(asked.clone()).unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        let generous = Limits {
            host_network: true,
            ..limits()
        };
        assert!(Order::parse(asked, &generous, "here").unwrap().host_network);
    }

    #[test]
    fn a_flist_goes_before_an_image() {
        let mut asked = start();
        asked.flist = Some(FlistSource {
            digest: "ab".repeat(32),
            ..FlistSource::default()
        });
        let order = parse(asked.clone()).unwrap();
        assert_eq!(order.image.key, format!("flist|{}", "ab".repeat(32)));
        asked.flist = Some(FlistSource {
            digest: "../../etc/passwd".into(),
            ..FlistSource::default()
        });
        let refused = parse(asked).unwrap_err().to_string();
        assert!(refused.starts_with("flist.digest"), "{refused}");
    }
}
