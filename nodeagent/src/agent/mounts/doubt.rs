//! A look, at mount time, whether the stores have what is missing: a wrong store is noticed before the
//! first read fails. Never a reason to refuse: a store may come back, and what is read may be local.

use super::Agent;
use crate::agent::live::LiveFlist;
use crate::agent::sources::Source;
use lamina_store::PackRef;
use lamina_store::url::Place;
use std::sync::Arc;
use std::time::Duration;

/// How long the look may take.
const PATIENCE: Duration = Duration::from_secs(1);

impl Agent {
    /// What to warn of; empty if nothing is known to be wrong. Only directories are waited for: a mount
    /// does not wait for a network. What others say later is the mount's last error.
    pub(super) fn doubt(&self, live: &LiveFlist) -> String {
        let Some(source) = live.sources.iter().find(|source| !source.is_complete()) else {
            return String::new();
        };
        // Whoever is in a cluster reads from its nodes.
        let mut layers = source.providers().into_iter().map(|p| p.layer);
        if self.fetcher.is_in_cluster() && layers.any(|layer| layer.is_some()) {
            return String::new();
        }
        let looked = self.runtime.spawn(look(Arc::clone(source)));
        match is_local(source) {
            true => self.runtime.block_on(looked).unwrap_or_default(),
            false => String::new(),
        }
    }
}

fn is_local(source: &Source) -> bool {
    let providers = source.providers();
    let readers = providers.iter().filter_map(|p| p.reader.as_ref());
    let mut specs = readers.flat_map(|reader| reader.stores().specs());
    specs.all(|spec| matches!(spec.url.place(), Place::Dir(_)))
}

/// Looks for the pack of the first missing entry, wherever it may be; notes and gives what was said when
/// nobody has it. Ends with the blob: its next mount does not wait for a store that hangs.
async fn look(source: Arc<Source>) -> String {
    let asked = tokio::select! {
        () = source.closed() => return String::new(),
        asked = tokio::time::timeout(PATIENCE, ask(&source)) => asked,
    };
    let said = match asked {
        Ok(None) => return String::new(),
        Ok(Some(said)) => said,
        Err(_late) => format!("nothing was heard within {PATIENCE:?}"),
    };
    let message = format!("no store has data that is missing here: {said}");
    tracing::warn!(blob = %source.id, "{message}");
    source.note_error(message.clone());
    message
}

async fn ask(source: &Source) -> Option<String> {
    let entry = (0..source.entries()).find(|&entry| !source.has(entry))?;
    let mut refusals = Vec::new();
    for provider in source.providers() {
        let pack = PackRef::from(&provider.locate(entry)?.pack);
        let stores = provider.reader.iter().flat_map(|r| r.stores().stores());
        for (range, store) in stores {
            if !range.contains(pack.id.as_bytes()[0]) {
                continue;
            }
            match store.head(&pack.key()).await {
                Ok(_) => return None,
                Err(error) => refusals.push(crate::chain(&error)),
            }
        }
    }
    Some(refusals.join("; "))
}
