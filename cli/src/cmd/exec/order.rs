//! What is ordered, of what was typed.

use crate::args::exec::Exec;
use crate::args::run::Net;
use crate::cmd::{explore, named};
use crate::exit;
use anyhow::{Context, Result, bail};
use lamina_flist::FlistDigest;
use lamina_proto::afsletpb::{DiffMode, Network, StartRequest};
use lamina_proto::lamina::v1::FlistSource;
use std::path::Path;

/// How a flist is named in place of an image.
const FLIST: &str = "flist:";

pub(super) fn start(args: &Exec) -> Result<StartRequest> {
    let flist = flist(&args.image)?;
    if flist.is_some() && args.platform.is_some() {
        bail!(exit::Usage(
            "--platform: a flist is of one platform, that of the image it was made of".into()
        ));
    }
    let [platform_os, platform_arch, platform_variant] = platform(args)?;
    let config = args.registry_config.as_ref();
    let config = config.map(|file| {
        std::fs::read(file).with_context(|| format!("read the credentials in {}", file.display()))
    });
    Ok(StartRequest {
        image: match flist {
            Some(_) => String::new(),
            None => args.image.clone(),
        },
        flist,
        command: args.command.clone(),
        entrypoint: args.entrypoint.iter().cloned().collect(),
        cap_add: args.cap_add.clone(),
        env: args
            .env
            .iter()
            .filter_map(|entry| variable(entry))
            .collect(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        network: match args.net {
            Net::None => Network::None.into(),
            Net::Host => Network::Host.into(),
        },
        cpu_cores: args.cpu.into(),
        memory_mb: args.memory,
        disk_mb: args.disk.unwrap_or(0),
        pids_max: args.pids.unwrap_or(0).into(),
        timeout_ms: args.timeout.map_or(Ok(0), timeout)?,
        diff: match args.diff {
            Some(_) => DiffMode::Unspecified.into(),
            None => DiffMode::None.into(),
        },
        node_id: args.node.clone().unwrap_or_default(),
        platform_os,
        platform_arch,
        platform_variant,
        force_local_fetch: args.pull,
        docker_config_json: config.transpose()?.unwrap_or_default(),
        proxy_dispatch_max_retries: match args.retries {
            None => 0,
            // To the contract 0 says nothing.
            Some(0) => -1,
            Some(retries) => retries.into(),
        },
        ..StartRequest::default()
    })
}

/// The flist that is named, if one is. One of this machine cannot be run by nodes, which have theirs in stores.
fn flist(typed: &str) -> Result<Option<FlistSource>> {
    let Some(digest) = typed.strip_prefix(FLIST) else {
        return match named::is_path(typed) {
            true => Err(not_here(typed).into()),
            false => Ok(None),
        };
    };
    if digest.parse::<FlistDigest>().is_err() {
        bail!(exit::Usage(format!(
            "{typed}: give its digest, 64 hex digits, as `lamina inspect` shows it"
        )));
    }
    Ok(Some(FlistSource {
        digest: digest.to_owned(),
        ..FlistSource::default()
    }))
}

/// What to do about a flist that is a file.
fn not_here(typed: &str) -> exit::Usage {
    let path = Path::new(typed);
    if !path.is_file() {
        return named::missing(typed);
    }
    let name = match explore::open(path) {
        Ok(flist) => format!("{FLIST}{}", flist.digest()),
        Err(_) => format!("{FLIST}DIGEST"),
    };
    exit::Usage(format!(
        "{typed} is a file of this machine, and nodes have flists in their stores: put it there with `--publish` of \
         `lamina pack` or `convert`, and name it {name}"
    ))
}

/// Milliseconds; 0 would be the afslet's.
fn timeout(time: std::time::Duration) -> Result<i64> {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    match millis {
        0 => Err(exit::Usage("--timeout: give 1ms or more".into()).into()),
        millis => Ok(millis),
    }
}

fn variable(entry: &str) -> Option<String> {
    if entry.contains('=') {
        return Some(entry.to_owned());
    }
    let value = std::env::var(entry).ok()?;
    Some(format!("{entry}={value}"))
}

fn platform(args: &Exec) -> Result<[String; 3]> {
    let Some(platform) = &args.platform else {
        return Ok(Default::default());
    };
    let parsed: lamina_image::Platform = platform
        .parse()
        .with_context(|| exit::Usage(format!("--platform {platform}")))?;
    Ok([parsed.os, parsed.arch, parsed.variant])
}
