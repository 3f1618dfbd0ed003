//! What is to be run, as a flist: one that is there, or an image that is converted once.

use crate::args::run::Run;
use crate::cmd::explore;
use crate::cmd::pack::{Shown, place};
use crate::cmd::{named, runtime, stores};
use crate::{daemon, exit};
use anyhow::{Context, Result, bail};
use lamina_flist::Flist;
use lamina_image::Source;
use lamina_image::convert::{ConvertOptions, convert};
use lamina_image::progress::Progress;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A flist file.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) flist: Flist,
}

impl Found {
    /// Of the image it was made of, if it was.
    pub(super) fn image_config(&self) -> &Value {
        self.flist.meta().image.as_ref().unwrap_or_default()
    }
}

pub(super) fn flist(args: &Run) -> Result<Found> {
    let typed = Path::new(&args.image);
    let path = match typed.is_file() {
        true => {
            std::fs::canonicalize(typed).with_context(|| format!("find flist {}", args.image))?
        }
        false if named::is_path(&args.image) => bail!(named::missing(&args.image)),
        false => converted(args)?,
    };
    let flist = explore::open(&path)?;
    Ok(Found { path, flist })
}

/// The image's flist in the state directory, made if it is not there.
fn converted(args: &Run) -> Result<PathBuf> {
    let source: Source = args.image.parse().with_context(|| {
        exit::Usage(format!(
            "`{}` is no file; understand it as an image",
            args.image
        ))
    })?;
    let state = daemon::state_dir()?;
    let home = state.join("images");
    let name = lamina_flist::ChunkId::of(args.image.as_bytes()).to_string();
    let path = home.join(format!("{}.fl", &name[..32]));
    // Directories and archives change under their name, and are at hand.
    if matches!(source, Source::Registry(_)) && path.is_file() {
        return Ok(path);
    }
    std::fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    let store = format!("dir://{}", state.join("store").display());
    let (set, specs) = stores::open(&[store], &args.access)?;
    let options = ConvertOptions {
        store_urls: stores::recorded(&specs, false),
        ..ConvertOptions::default()
    };
    let progress: Arc<dyn Progress> = Arc::new(Shown::new("converting"));
    let converted = runtime()?.block_on(async {
        let place = place(&set).await?;
        convert(&source, &place, &options, Arc::clone(&progress))
            .await
            .with_context(|| format!("convert {}", args.image))
    })?;
    write(&path, &converted.flist)?;
    Ok(path)
}

/// Whole or not at all, for others may do the same at the same time.
fn write(path: &Path, flist: &[u8]) -> Result<()> {
    let failed = || format!("write {}", path.display());
    let home = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(home).with_context(failed)?;
    std::io::Write::write_all(&mut file, flist).with_context(failed)?;
    file.persist(path).with_context(failed)?;
    Ok(())
}
