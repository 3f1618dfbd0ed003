//! What servers say of a run, in the words of the command line: they name the fields of the contract.

/// Fields of `StartRequest` that are no words of a sentence, and what they are here.
const FIELDS: [(&str, &str); 11] = [
    ("cap_add", "--cap-add"),
    ("cpu_cores", "--cpu"),
    ("disk_mb", "--disk"),
    ("docker_config_json", "--registry-config"),
    ("flist.digest", "flist:DIGEST"),
    ("memory_mb", "--memory"),
    ("node_id", "--node"),
    ("pids_max", "--pids"),
    ("platform_os", "--platform"),
    ("timeout_ms", "--timeout"),
    ("working_dir", "--workdir"),
];
/// Those that are: they are meant at the beginning of what is said only.
const FIRST: [(&str, &str); 7] = [
    ("command", "COMMAND"),
    ("entrypoint", "--entrypoint"),
    ("env", "--env"),
    ("image", "IMAGE"),
    ("image, tag or platform", "IMAGE or --platform"),
    ("network", "--net"),
    ("user", "--user"),
];

/// Says it so.
pub(super) fn said(text: &str) -> String {
    let mut text = first(text);
    for (field, flag) in FIELDS {
        text = replaced(&text, field, flag);
    }
    text
}

fn first(text: &str) -> String {
    let Some((field, rest)) = text.split_once(": ") else {
        return text.to_owned();
    };
    let (name, place) = field.split_at(field.find('[').unwrap_or(field.len()));
    match FIRST.into_iter().find(|(known, _)| *known == name) {
        Some((_, flag)) => format!("{flag}{place}: {rest}"),
        None => text.to_owned(),
    }
}

/// Where it stands as a word, and not within a path or a name.
fn replaced(text: &str, field: &str, flag: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(field) {
        let (before, found) = rest.split_at(at);
        let after = &found[field.len()..];
        out.push_str(before);
        let begins = out.is_empty() || out.ends_with([' ', '(']);
        let ends = after.is_empty() || after.starts_with([' ', ':', ',', ';', '[', ')']);
        out.push_str(if begins && ends { flag } else { field });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_flags_where_they_are_words() {
        for (theirs, ours) in [
            ("timeout_ms: 2h is more", "--timeout: 2h is more"),
            (
                "its changes fill what they may: disk_mb is 2 MiB",
                "its changes fill what they may: --disk is 2 MiB",
            ),
            (
                "what the run's disk_mb and memory_mb leave them",
                "what the run's --disk and --memory leave them",
            ),
            (
                "file entry \"/a/disk_mb\": the run's disk_mb has no room for it",
                "file entry \"/a/disk_mb\": the run's --disk has no room for it",
            ),
            ("cap_add[1]: no capability", "--cap-add[1]: no capability"),
            ("env[3]: it has a NUL in it", "--env[3]: it has a NUL in it"),
            (
                "user: no user web in the image",
                "--user: no user web in the image",
            ),
            ("image, tag or platform: bad", "IMAGE or --platform: bad"),
            ("no user: there is none", "no user: there is none"),
            ("memory_mbs my_disk_mb", "memory_mbs my_disk_mb"),
        ] {
            assert_eq!(said(theirs), ours);
        }
    }
}
