//! What an image config says about how its command starts.

use serde_json::Value;

use super::view::{Found, View};

/// Directories of the PATH.
const PATH_MAX: usize = 64;

/// The parts of an image config that decide what runs.
pub(super) struct Start {
    command: Vec<String>,
    environment: Vec<String>,
    directory: String,
}

impl Start {
    pub(super) fn of(config: &Value) -> Self {
        let list = |key: &str| -> Vec<String> {
            let words = config["config"][key].as_array().into_iter().flatten();
            words.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let directory = config["config"]["WorkingDir"].as_str().unwrap_or_default();
        Self {
            command: [list("Entrypoint"), list("Cmd")].concat(),
            environment: list("Env"),
            directory: directory.to_owned(),
        }
    }

    /// An environment variable; empty if it is not set.
    pub(super) fn variable(&self, name: &str) -> &str {
        let value = |v: &'_ String| v.strip_prefix(name)?.strip_prefix('=').map(str::len);
        let found = self.environment.iter().find_map(|v| Some((v, value(v)?)));
        found.map_or("", |(v, len)| &v[v.len() - len..])
    }

    /// The working directory.
    pub(super) fn directory(&self) -> &str {
        &self.directory
    }

    fn path(&self) -> &str {
        match self.variable("PATH") {
            "" => "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            path => path,
        }
    }

    /// A word of the command as a path.
    pub(super) fn absolute(&self, word: &str) -> String {
        if word.starts_with('/') {
            word.to_owned()
        } else {
            format!("{}/{word}", self.directory)
        }
    }

    /// Looks a program up as the shell does: path as called, and the file.
    pub(super) fn program(&self, view: &View<'_>, word: &str) -> Option<(String, Found)> {
        let candidates: Vec<String> = if word.contains('/') {
            vec![self.absolute(word)]
        } else {
            let directories = self.path().split(':').take(PATH_MAX);
            directories.map(|dir| format!("{dir}/{word}")).collect()
        };
        candidates.into_iter().find_map(|path| {
            let file = view.file(&path).filter(|f| f.executable)?;
            Some((path, file))
        })
    }

    /// The words of the command; of `sh -c "exec a b"` those inside, too.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = self.command.clone();
        if let Some(at) = words.iter().position(|w| w == "-c")
            && let Some(script) = words.get(at + 1).cloned()
            && words.first().is_some_and(|w| w.ends_with("sh"))
        {
            let inside = script.split(|c: char| c.is_whitespace() || "'\"();&|".contains(c));
            let inside = inside.filter(|w| !w.is_empty()).map(str::to_owned);
            words.splice(at..at + 2, inside);
        }
        words
    }
}

/// The program `env` runs: the first word that is no option or variable, and
/// the words behind it.
pub(super) fn env_target(words: &[String]) -> Option<(&str, &[String])> {
    let is_target = |w: &String| !w.starts_with('-') && !w.contains('=');
    let at = words.iter().position(is_target)?;
    Some((&words[at], &words[at + 1..]))
}
