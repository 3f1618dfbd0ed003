//! `convert`: a container image becomes a flist and packs in stores.

use super::out::Out;
use super::pack::{Shown, finish, pack_options, place, summary, tags};
use super::{runtime, stores};
use crate::args;
use crate::exit;
use crate::output;
use anyhow::{Context, Result, bail};
use lamina_image::convert::{ConvertOptions, convert as convert_image};
use lamina_image::progress::Progress;
use lamina_image::registry::{CredentialSource, Credentials, RegistryOptions};
use lamina_image::{Limits, Platform, Source};
use std::io::{IsTerminal, Read};
use std::sync::Arc;

/// Longer is no password but a file sent by mistake.
const PASSWORD_MAX: u64 = 64 << 10;

pub(crate) fn convert(args: &args::Convert) -> Result<()> {
    let source: Source = args
        .source
        .parse()
        .with_context(|| exit::Usage(format!("understand the image `{}`", args.source)))?;
    let platform = args
        .platform
        .as_deref()
        .map(str::parse::<Platform>)
        .transpose();
    let platform = platform.with_context(|| exit::Usage("understand --platform".to_owned()))?;
    let out = Out::new(&args.out)?;
    let credentials = credentials(args)?;
    let tags = tags(&args.tuning)?;
    let (set, specs) = stores::open(&args.store.stores, &args.store.access)?;
    let runtime = runtime()?;
    let defaults = ConvertOptions::default();
    let options = ConvertOptions {
        platform,
        registry: RegistryOptions {
            credentials,
            insecure: args.insecure,
            ..RegistryOptions::default()
        },
        pack: pack_options(&args.tuning),
        layers_in_flight: args
            .parallel_layers
            .unwrap_or(defaults.layers_in_flight)
            .max(1),
        limits: limits(args),
        layers_dir: args.layers.clone(),
        store_urls: stores::recorded(&specs, args.tuning.keep_credentials),
        tags,
        profile: !args.no_profile,
        ..defaults
    };
    let progress: Arc<dyn Progress> = Arc::new(Shown::new("converting"));
    let converted = runtime.block_on(async {
        let place = place(&set).await?;
        convert_image(&source, &place, &options, Arc::clone(&progress))
            .await
            .with_context(|| format!("convert {}", args.source))
    })?;
    drop(progress);
    for layer in &converted.layers {
        for note in &layer.stats.notes {
            tracing::warn!(layer = %layer.diff_id, "{note}");
        }
    }
    finish(&runtime, &set, &out, &converted.flist, args.publish)?;
    let stats: Vec<_> = converted.layers.iter().map(|layer| &layer.packed).collect();
    output::write_all(summary(&args.out, &converted.digest.to_string(), &stats).as_bytes())
}

fn limits(args: &args::Convert) -> Limits {
    Limits {
        ratio_max: args.decompression_ratio_max,
        ..Limits::default()
    }
}

fn credentials(args: &args::Convert) -> Result<CredentialSource> {
    let Some(username) = &args.username else {
        return Ok(CredentialSource::DockerConfig);
    };
    if !args.password_stdin {
        bail!(exit::Usage("--username needs --password-stdin".to_owned()));
    }
    if std::io::stdin().is_terminal() {
        eprintln!("reading the password from standard input");
    }
    let mut password = String::new();
    std::io::stdin()
        .take(PASSWORD_MAX)
        .read_to_string(&mut password)
        .context("read the password from standard input")?;
    Ok(CredentialSource::Explicit(Credentials::Basic {
        username: username.clone(),
        password: password.trim_end_matches(['\r', '\n']).to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[test]
    fn the_decompression_ratio_is_the_limit_s_unless_another_is_given() {
        let ratio = |more: &[&str]| {
            let words = [&["lamina", "convert", "i", "-o", "o", "-s", "/s"], more].concat();
            let parsed = args::Cli::try_parse_from(words).ok()?;
            match parsed.command {
                args::Command::Convert(args) => Some(limits(&args).ratio_max),
                _ => None,
            }
        };
        assert_eq!(ratio(&[]), Some(Limits::default().ratio_max));
        assert_eq!(ratio(&["--decompression-ratio-max", "5000"]), Some(5000));
        assert_eq!(ratio(&["--decompression-ratio-max", "0"]), None);
    }
}
