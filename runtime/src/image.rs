//! What an image says about its command, and what a caller wants instead.

use serde::Deserialize;
use serde_json::Value;

/// Where programs are looked for in an image that does not say.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The part of an OCI image config that matters for running it
/// (<https://github.com/opencontainers/image-spec/blob/main/config.md>).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// What always comes first.
    pub entrypoint: Vec<String>,
    /// What comes then, unless the caller says otherwise.
    pub cmd: Vec<String>,
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// Where it starts.
    pub directory: Option<String>,
    /// `user[:group]`; empty is root.
    pub user: String,
}

/// What a caller wants instead of what the image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Instead of the image's command; its entrypoint stays.
    pub command: Vec<String>,
    /// Instead of the image's entrypoint, and then of its command, too; empty for none.
    pub entrypoint: Option<Vec<String>>,
    /// Added, or instead of the image's of the same name.
    pub env: Vec<String>,
}

/// Neither the image nor the caller says what to run.
#[derive(Debug, thiserror::Error)]
#[error("the image has no command: say what to run")]
pub struct NoCommand;

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Raw {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
}

impl ImageConfig {
    /// Reads it from a whole OCI image config, as flists keep it. What is no config has nothing to say.
    pub fn of_json(config: &Value) -> Self {
        let inner = config.get("config").cloned().unwrap_or_default();
        let raw: Raw = serde_json::from_value(inner).unwrap_or_default();
        Self {
            entrypoint: raw.entrypoint.unwrap_or_default(),
            cmd: raw.cmd.unwrap_or_default(),
            env: raw.env.unwrap_or_default(),
            directory: raw.working_dir.filter(|dir| dir.starts_with('/')),
            user: raw.user.unwrap_or_default(),
        }
    }

    /// Program and arguments.
    ///
    /// # Errors
    /// [`NoCommand`].
    pub fn argv(&self, wanted: &Wanted) -> Result<Vec<String>, NoCommand> {
        let (entrypoint, cmd) = match &wanted.entrypoint {
            None => (self.entrypoint.clone(), self.cmd.clone()),
            Some(entrypoint) => (entrypoint.clone(), Vec::new()),
        };
        let command = match wanted.command.is_empty() {
            true => cmd,
            false => wanted.command.clone(),
        };
        let argv = [entrypoint, command].concat();
        match argv.is_empty() {
            true => Err(NoCommand),
            false => Ok(argv),
        }
    }

    /// The environment: `PATH` and these defaults, then the image's, then the caller's.
    pub fn env(&self, wanted: &Wanted, defaults: &[(&str, &str)]) -> Vec<String> {
        let mut env: Vec<String> = Vec::new();
        let path = format!("PATH={PATH}");
        let defaults = defaults
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        let given = self.env.iter().chain(&wanted.env).cloned();
        for entry in [path].into_iter().chain(defaults).chain(given) {
            let name = entry.split('=').next().unwrap_or_default();
            let same = |other: &&mut String| other.split('=').next() == Some(name);
            match env.iter_mut().find(same) {
                Some(before) => *before = entry,
                None => env.push(entry),
            }
        }
        env
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> ImageConfig {
        ImageConfig::of_json(&json!({"config": {
            "Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Env": ["X=1", "PATH=/bin"],
            "WorkingDir": "/work", "User": "web",
        }}))
    }

    fn argv(command: &[&str], entrypoint: Option<&[&str]>) -> Vec<String> {
        let words = |list: &[&str]| list.iter().map(|&word| word.into()).collect();
        let wanted = Wanted {
            command: words(command),
            entrypoint: entrypoint.map(words),
            ..Wanted::default()
        };
        config().argv(&wanted).unwrap_or_default()
    }

    #[test]
    fn entrypoint_and_command_combine_as_with_docker() {
        assert_eq!(argv(&[], None), ["/entry", "a", "b"]);
        assert_eq!(argv(&["c"], None), ["/entry", "c"]);
        assert_eq!(argv(&["c"], Some(&["/other"])), ["/other", "c"]);
        assert_eq!(argv(&[], Some(&["/other", "-x"])), ["/other", "-x"]);
        assert_eq!(argv(&["c"], Some(&[])), ["c"]);
        assert_eq!(argv(&[], Some(&[])), Vec::<String>::new());
        let nothing = ImageConfig::of_json(&json!({"config": null}));
        assert!(nothing.argv(&Wanted::default()).is_err());
    }

    #[test]
    fn the_caller_s_environment_goes_before_the_image_s() {
        let wanted = Wanted {
            env: vec!["X=2".into(), "Y=3".into()],
            ..Wanted::default()
        };
        let env = config().env(&wanted, &[("HOME", "/srv")]);
        assert_eq!(env, ["PATH=/bin", "HOME=/srv", "X=2", "Y=3"]);
    }
}
