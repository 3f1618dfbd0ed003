//! The node's daemons: holder, mount daemon, agent.
pub mod agent;
pub mod api;
pub mod cluster_file;
pub mod docker_config;
mod files;
pub mod fill;
pub mod holder;
pub mod host;
pub mod instance;
pub mod launch;
pub mod layers;
pub mod logfile;
pub mod mountd;
pub mod node;
pub mod rundir;
#[cfg(test)]
mod sample;
mod sys;
#[cfg(test)]
mod test_registry;
pub mod wire;

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
